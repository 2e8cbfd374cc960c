// Sending a dataset in parts. Parts that fail are sent again, from where the server says it has got to.

import { api } from '../../../scripts/api.js'
import { postJson, routeUrl, ServerError } from '../lib/api.js'
import { translated } from '../lib/i18n.js'

const INSTEAD = "put the zip into ComfyUI's input folder instead, press R, and choose it under dataset."
const TEXT = await translated('dataset/upload', {
  noRoute: `This ComfyUI does not take uploads for datasets: its copy of this pack is older than this page. Restart \
ComfyUI and reload the page, or ${INSTEAD}`,
  tooLarge: `ComfyUI, or a proxy in front of it, refuses an upload of this size. Start ComfyUI with a larger \
--max-upload-size (in MB), or ${INSTEAD}`,
  brokeOff:
    'The connection to ComfyUI broke off, and did not come back. Look whether it is still running, then try again.',
  unclear: (status) => `ComfyUI answered with HTTP ${status}.`
})

const MAX_FAILURES = 5
const FIRST_PAUSE_MS = 400
const MIN_PART_BYTES = 256 * 2 ** 10
const AT_ONCE = 3

/**
 * Send what `chooseFiles` chose. `onProgress({ sent, total })` counts bytes. Resolves to the dataset as the server
 * names it: `{ id, name, kind }`. Throws `ServerError` with words for people, or an AbortError.
 */
export async function uploadDataset({ name, files }, { signal, onProgress }) {
  const upload = await begin(name, files, signal)
  const progress = counter(files, onProgress)
  try {
    const queue = files.map((entry, index) => ({ file: entry.file, index }))
    await inTurns(queue, AT_ONCE, ({ file, index }) => sendFile(upload, index, file, signal, progress))
    return (await postJson(`/uploads/${upload.token}/finish`, {}, { signal })).dataset
  } catch (error) {
    // Best effort: the server forgets unfinished uploads by itself.
    postJson(`/uploads/${upload.token}/cancel`).catch(() => {})
    throw inWords(error)
  }
}

async function begin(name, files, signal) {
  const list = files.map(({ name, file }) => ({ name, bytes: file.size }))
  try {
    const answer = await postJson('/uploads', { ...(name && { name }), files: list }, { signal })
    return { token: answer.upload, partBytes: answer.part_bytes }
  } catch (error) {
    throw inWords(error)
  }
}

function inWords(error) {
  if (!(error instanceof ServerError)) return error
  const said = (text) => new ServerError(text, error.status, error.code)
  if ([404, 405].includes(error.status) && error.code === 'http_error') return said(TEXT.noRoute)
  if (error.status === 413) return said(TEXT.tooLarge)
  return error
}

function counter(files, onProgress) {
  const total = files.reduce((sum, { file }) => sum + file.size, 0)
  const sent = files.map(() => 0)
  return (index, bytes) => {
    sent[index] = bytes
    onProgress({ sent: sent.reduce((sum, value) => sum + value, 0), total })
  }
}

/** Do all jobs, a few at a time. The first that fails ends it; none is begun afterwards. */
async function inTurns(jobs, atOnce, work) {
  const waiting = [...jobs]
  const worker = async () => {
    while (waiting.length) {
      try {
        await work(waiting.shift())
      } catch (error) {
        waiting.length = 0
        throw error
      }
    }
  }
  await Promise.all(Array.from({ length: Math.min(atOnce, jobs.length) }, worker))
}

async function sendFile(upload, index, file, signal, progress) {
  let offset = 0
  let failures = 0
  while (offset < file.size) {
    const part = file.slice(offset, offset + upload.partBytes)
    const path = `/uploads/${upload.token}/files/${index}?offset=${offset}`
    try {
      const { received } = await sendPart(path, part, signal, (bytes) => progress(index, offset + bytes))
      if (!(received > offset)) throw new ServerError(TEXT.brokeOff, 0, 'no_progress')
      offset = received
      failures = 0
    } catch (error) {
      if (!(error instanceof ServerError)) throw error
      failures += 1
      if (failures > MAX_FAILURES) throw error
      if (error.status === 409 && Number.isInteger(error.received)) {
        offset = error.received
      } else if (error.status === 413 && upload.partBytes > MIN_PART_BYTES) {
        // Something between may take less at once than our own route does.
        upload.partBytes = Math.max(MIN_PART_BYTES, upload.partBytes >> 2)
      } else if (mayPass(error)) {
        await pause(FIRST_PAUSE_MS * 2 ** (failures - 1), signal)
      } else {
        throw error
      }
    }
    progress(index, offset)
  }
}

function mayPass({ status, code }) {
  return status === 0 || status === 408 || status === 429 || (status >= 500 && status !== 507) || code === 'busy'
}

function pause(milliseconds, signal) {
  return new Promise((done, fail) => {
    const timer = setTimeout(done, milliseconds)
    signal.addEventListener('abort', () => {
      clearTimeout(timer)
      fail(signal.reason)
    }, { once: true })
  })
}

/** POST a blob. Not by fetch, which does not tell how much has been sent. */
function sendPart(path, blob, signal, onSent) {
  return new Promise((done, fail) => {
    if (signal.aborted) return fail(signal.reason)
    const request = new XMLHttpRequest()
    const stop = () => request.abort()
    request.open('POST', routeUrl(path))
    request.responseType = 'json'
    request.setRequestHeader('Content-Type', 'application/octet-stream')
    if (api.user) request.setRequestHeader('Comfy-User', api.user)
    request.upload.onprogress = (event) => onSent(event.loaded)
    request.onload = () => (request.status === 200 ? done(request.response ?? {}) : fail(refusal(request)))
    request.onerror = () => fail(new ServerError(TEXT.brokeOff, 0, 'no_answer'))
    request.onabort = () => fail(signal.reason)
    request.onloadend = () => signal.removeEventListener('abort', stop)
    signal.addEventListener('abort', stop)
    request.send(blob)
  })
}

function refusal({ status, response }) {
  const told = response?.error
  const error = new ServerError(told?.message ?? TEXT.unclear(status), status, told?.code ?? 'http_error')
  return Object.assign(error, { received: told?.received })
}
