// The upper part of the panel: the button, how far an upload is, and what went wrong with it.

import { el } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'
import { ACCEPTED, chooseFiles, pickedFiles } from './files.js'
import { createProgress } from './progress.js'
import { uploadDataset } from './upload.js'

const TEXT = await translated('dataset/uploader', {
  button: 'Upload zip or images…',
  hint: 'or drop them here',
  busy: 'An upload is under way. Wait for it, or cancel it first.',
  several: (count) => `${count} files`,
  leftOut: (count, names) => `Left out, because only images and .txt files are used: ${names}${count}`,
  more: (count) => ` and ${count} more`,
  cancelled: 'Cancelled. Nothing was kept.',
  dismiss: 'Hide this message'
})
const NAMED = 3

/** `{ element, start(found), stop() }`; `found` are the files as `droppedFiles` gives them, or a promise of them. */
export function createUploader({ onUploaded }) {
  const picker = el('input', { type: 'file', multiple: true, accept: ACCEPTED, hidden: true, onchange: onPicked })
  const button = el('button', { type: 'button', class: 'i4-button', onclick: () => picker.click() }, TEXT.button)
  const message = el('span')
  const hide = () => say('')
  const dismiss = el('button', { type: 'button', class: 'i4-plain', 'aria-label': TEXT.dismiss, onclick: hide }, '✕')
  const alert = el('div', { class: 'i4-alert', role: 'alert', hidden: true }, message, dismiss)
  const progress = createProgress({ onCancel: stop })
  const row = el('div', { class: 'i4-row i4-upload' }, button, el('span', { class: 'i4-quiet' }, TEXT.hint), picker)
  const element = el('div', { class: 'i4-uploader' }, row, progress.element, alert)
  let sending = null

  function onPicked() {
    start(Promise.resolve(pickedFiles(picker)))
    picker.value = '' // so that the same file can be picked again
  }

  async function start(found) {
    if (sending) return say(TEXT.busy)
    sending = new AbortController()
    const { signal } = sending
    say('')
    window.addEventListener('beforeunload', keepPage)
    try {
      const choice = chooseFiles(await found)
      const { files, leftOut } = choice
      const name = files.length === 1 ? files[0].name : choice.name || TEXT.several(files.length)
      const total = files.reduce((sum, { file }) => sum + file.size, 0)
      row.hidden = true
      progress.show(name, { sent: 0, total: Math.max(1, total) })
      const dataset = await uploadDataset(choice, { signal, onProgress: (how) => progress.show(name, how) })
      say(leftOut.length ? TEXT.leftOut(more(leftOut), leftOut.slice(0, NAMED).join(', ')) : '')
      onUploaded(dataset)
    } catch (error) {
      say(signal.aborted ? TEXT.cancelled : error.message, !signal.aborted)
    } finally {
      window.removeEventListener('beforeunload', keepPage)
      progress.hide()
      row.hidden = false
      sending = null
    }
  }

  function stop() {
    sending?.abort()
  }

  function say(text, isBad = false) {
    message.textContent = text
    alert.hidden = !text
    alert.classList.toggle('i4-bad', isBad)
  }

  return { element, start, stop }
}

function more(names) {
  return names.length > NAMED ? TEXT.more(names.length - NAMED) : ''
}

function keepPage(event) {
  event.preventDefault()
}
