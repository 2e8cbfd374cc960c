// Calls of the pack's own routes. Errors carry the server's words, which are written for people.

import { api } from '../../../scripts/api.js'

const PREFIX = '/ideogram4_lora_trainer'

export class ServerError extends Error {
  /** `status` is that of HTTP, 0 when no answer came; `code` is stable, for programs. */
  constructor(message, status, code) {
    super(message)
    this.status = status
    this.code = code
  }
}

/** The address of a route, for an image or a link. */
export function routeUrl(path) {
  return api.apiURL(PREFIX + path)
}

export async function getJson(path, options = {}) {
  return (await send(path, options)).json()
}

export async function postJson(path, body = {}, options = {}) {
  const response = await send(path, {
    ...options,
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body)
  })
  return response.json()
}

/** A fetch of a route. Throws `ServerError` with words for people when it fails, however it fails. */
export async function send(path, options = {}) {
  let response
  try {
    response = await api.fetchApi(PREFIX + path, options)
  } catch (error) {
    if (error.name === 'AbortError') throw error
    throw new ServerError('ComfyUI does not answer. Is it still running?', 0, 'no_answer')
  }
  if (response.ok) return response
  let told
  try {
    told = (await response.json()).error
  } catch {
    // not from our routes
  }
  const message = told?.message ?? `ComfyUI answered with HTTP ${response.status}.`
  throw new ServerError(message, response.status, told?.code ?? 'http_error')
}
