// A button that copies text, also where the page has no clipboard: ComfyUI on another computer, over plain http.

import { el } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'

const TEXT = await translated('http_api/copy', {
  copy: 'Copy',
  copied: 'Copied',
  byHand: 'Press Ctrl+C'
})
const SHOWN_MS = 2000

/** `text()` is copied; `source` is the element that shows it, where it is selected if it must be copied by hand. */
export function copyButton(text, source) {
  let back
  const button = el('button', { type: 'button', class: 'i4-button', 'aria-live': 'polite', onclick: copy }, TEXT.copy)
  return button

  async function copy() {
    button.textContent = (await toClipboard(text(), source)) ? TEXT.copied : TEXT.byHand
    clearTimeout(back)
    back = setTimeout(() => (button.textContent = TEXT.copy), SHOWN_MS)
  }
}

async function toClipboard(text, source) {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    // not a secure context, or not allowed
  }
  select(source)
  return document.execCommand('copy')
}

function select(source) {
  source.focus()
  if (source instanceof HTMLInputElement) source.select()
  else window.getSelection().selectAllChildren(source)
}
