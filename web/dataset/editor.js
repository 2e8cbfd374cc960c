// The caption of one image in a text box: what is typed, what is saved, and what would be lost.

import { el } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'
import { indented } from './json_text.js'

const TEXT = await translated('dataset/editor', {
  caption: 'Caption',
  save: 'Save',
  saveTip: 'Ctrl+Enter',
  restore: 'Back to the original',
  restoreTip: 'Forget the correction and use the caption that came with the image',
  read: 'Laid out for reading',
  readTip: 'Show the JSON on several lines. What is saved stays as it is.',
  placeholder: 'No caption. Write one here.'
})

/**
 * `{ element, show(details, keep), typed(), isChanged(), setBusy(on), focus() }`. `onSave(text)` gets null where the
 * original is wanted back.
 */
export function createEditor({ onSave, onInput }) {
  const box = el('textarea', {
    class: 'i4-caption', spellcheck: 'false', placeholder: TEXT.placeholder, 'aria-label': TEXT.caption, oninput: onTyped
  })
  const reading = el('pre', { class: 'i4-caption', tabindex: 0, hidden: true, 'aria-label': TEXT.caption })
  const readSwitch = el('input', { type: 'checkbox', onchange: drawReading })
  const readLabel = el('label', { class: 'i4-check', title: TEXT.readTip }, readSwitch, TEXT.read)
  const save = button(TEXT.save, TEXT.saveTip, () => onSave(typed()))
  const restore = button(TEXT.restore, TEXT.restoreTip, () => onSave(null))
  save.classList.add('i4-primary')
  const element = el('div', { class: 'i4-editor' },
    el('div', { class: 'i4-row' }, el('strong', {}, TEXT.caption), readLabel), box, reading,
    el('div', { class: 'i4-row i4-editor-buttons' }, restore, save))
  let item = { caption: '', source: 'file' }
  let busy = false

  /** What would be saved: with the line breaks that the caption had, because a text box knows only one kind. */
  function typed() {
    const breaks = /\r\n/.test(item.caption) && !/(^|[^\r])\n/.test(item.caption)
    if (!isChanged()) return item.caption
    return breaks ? box.value.replaceAll('\n', '\r\n') : box.value
  }

  function isChanged() {
    return box.value !== item.caption.replace(/\r\n?/g, '\n')
  }

  function changed() {
    box.readOnly = busy
    save.disabled = busy || !isChanged()
    restore.hidden = item.source !== 'corrected'
    restore.disabled = busy
  }

  function onTyped() {
    changed()
    onInput()
  }

  function drawReading() {
    const text = indented(typed())
    const on = readSwitch.checked && text !== null
    readLabel.hidden = indented(item.caption) === null
    reading.textContent = on ? text : ''
    reading.hidden = !on
    box.hidden = on
  }

  return {
    element,
    typed,
    isChanged,
    /** Show the caption of `details`; `keep` leaves what is typed, to be compared with the newer caption. */
    show(details, keep = false) {
      item = details
      if (!keep) box.value = details.caption
      changed()
      drawReading()
    },
    setBusy(on) {
      busy = on
      changed()
    },
    focus() {
      readSwitch.checked = false
      drawReading()
      box.focus()
    }
  }
}

function button(text, title, onclick) {
  return el('button', { type: 'button', class: 'i4-button', title, onclick }, text)
}
