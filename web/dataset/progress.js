// How far an upload is, and a button that ends it.

import { el, formatBytes } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'

const TEXT = await translated('dataset/progress', {
  label: 'Upload',
  sending: (name, sent, total, percent) => `${name}: ${sent} of ${total}, ${percent} %`,
  checking: (name) => `${name}: all sent. ComfyUI is checking it.`,
  cancel: 'Cancel'
})

/** `{ element, show(name, { sent, total }), hide() }`. */
export function createProgress({ onCancel }) {
  const bar = el('progress', { 'aria-label': TEXT.label, max: 1 })
  const words = el('span', { class: 'i4-progress-words' })
  const cancel = el('button', { type: 'button', class: 'i4-button', onclick: onCancel }, TEXT.cancel)
  const element = el('div', { class: 'i4-progress', hidden: true }, words, cancel, bar)
  return {
    element,
    show(name, { sent, total }) {
      const part = total ? sent / total : 1
      element.hidden = false
      // Not 100 % before the last byte, and no percentage while the server is at work.
      if (sent < total) bar.value = part
      else bar.removeAttribute('value')
      cancel.hidden = sent >= total // it may be in place before word of it could arrive
      words.textContent = sent < total
        ? TEXT.sending(name, formatBytes(sent), formatBytes(total), Math.floor(100 * part))
        : TEXT.checking(name)
    },
    hide() {
      element.hidden = true
    }
  }
}
