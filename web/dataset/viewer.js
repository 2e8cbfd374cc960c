// One image large: the crop, the boxes of its caption, what is wrong with it, and the caption to be corrected.

import { el } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'
import { createEditor } from './editor.js'
import { captionBox, cropFrame } from './frame.js'
import { markLine } from './marks.js'

const TEXT = await translated('dataset/viewer', {
  dialog: 'Image and caption',
  close: 'Close',
  previous: 'Previous image',
  next: 'Next image',
  crop: 'Crop',
  boxes: 'Boxes',
  loading: 'Reading the caption…',
  facts: (item, crop) => `${item.width} × ${item.height} pixels${crop}`,
  trained: (width, height) => `, trained at ${width} × ${height}`,
  place: (at, total) => `${at} of ${total}`,
  source: {
    file: '',
    corrected: 'This caption was corrected here. The file that came with the image is unchanged.',
    default: 'It has no caption of its own: the default caption of the node is used.',
    forced: 'The default caption of the node is used for every image, instead of this one.',
    missing: 'It has no caption yet.'
  },
  noPicture: 'This image cannot be shown. It may have changed: close this and look at the sheet again.',
  saved: 'Saved beside the dataset. The zip or the text file stays as it was.',
  restored: 'The original caption is used again.',
  changed: 'The dataset has changed meanwhile. Your text is still here: look at it, and save again.',
  gone: (name) => `${name} is not in the dataset any more. Your text is still here: copy it if you need it.`,
  unsaved: 'This caption is not saved.',
  saveIt: 'Save',
  discard: 'Discard',
  stay: 'Go on editing'
})

/**
 * A dialog that is opened with `open(index)`. It asks its `library` for everything:
 * `itemAt(index)`, `beside(index, step)`, `place(index)` -> `[at, total]`, `size()` -> `{ width, height }` or null,
 * `read(index, signal)`, `url(index)`, `save(index, caption, was)` and `reload()`, which finds an item by its name
 * again: `reload(name)` -> index or null.
 */
export function createViewer(library) {
  const editor = createEditor({ onSave: save, onInput: () => say('') })
  const image = el('img', { alt: '' })
  const over = el('span', { class: 'i4-over' })
  const picture = el('div', { class: 'i4-picture' }, image, over)
  const title = el('h2', { class: 'i4-title' })
  const place = el('span', { class: 'i4-quiet' })
  const facts = el('p', { class: 'i4-quiet' })
  const findings = el('ul', { class: 'i4-findings' })
  const source = el('p', { class: 'i4-quiet' })
  const status = el('p', { class: 'i4-status', role: 'status' })
  const cropSwitch = el('input', { type: 'checkbox', checked: true, onchange: drawLines })
  const boxSwitch = el('input', { type: 'checkbox', checked: true, onchange: drawLines })
  const cropLabel = el('label', { class: 'i4-check' }, cropSwitch, TEXT.crop)
  const boxLabel = el('label', { class: 'i4-check' }, boxSwitch, TEXT.boxes)
  const previous = arrow('‹', TEXT.previous, -1)
  const next = arrow('›', TEXT.next, 1)
  const shut = { type: 'button', class: 'i4-button', 'aria-label': TEXT.close, onclick: askToClose }
  const close = el('button', shut, '✕')
  const question = el('div', { class: 'i4-question', role: 'alert', hidden: true })
  const dialog = el('dialog', { class: 'i4-viewer', tabindex: -1, 'aria-label': TEXT.dialog },
    el('div', { class: 'i4-panel i4-view' },
      el('div', { class: 'i4-stage' }, previous, el('div', { class: 'i4-room' }, picture), next),
      el('div', { class: 'i4-side' },
        el('div', { class: 'i4-row' }, title, close),
        el('div', { class: 'i4-row' }, facts, place),
        el('div', { class: 'i4-row i4-switches' }, cropLabel, boxLabel),
        findings, source, editor.element, status, question)))

  let item = null // of the sheet
  let details = null // with the whole caption
  let reading = new AbortController()

  image.addEventListener('error', () => say(TEXT.noPicture, true))
  dialog.addEventListener('keydown', onKey)
  dialog.addEventListener('click', (event) => event.target === dialog && askToClose())
  dialog.addEventListener('cancel', (event) => {
    event.preventDefault()
    askToClose()
  })
  dialog.addEventListener('close', () => {
    reading.abort()
    window.removeEventListener('beforeunload', keepPage)
    dialog.remove()
  })

  async function open(index) {
    if (!dialog.isConnected) {
      document.body.append(dialog)
      dialog.showModal()
      dialog.focus() // not a button, so that no key presses one
      window.addEventListener('beforeunload', keepPage)
    }
    await show(index)
  }

  async function show(index) {
    reading.abort()
    reading = new AbortController()
    const { signal } = reading
    item = library.itemAt(index)
    details = null
    question.hidden = true
    editor.show({ caption: '', source: 'file' })
    editor.setBusy(true)
    drawItem()
    say(TEXT.loading)
    try {
      details = await library.read(index, signal)
      if (signal.aborted) return
      editor.setBusy(false)
      editor.show(details)
      drawDetails()
      say('')
    } catch (error) {
      if (signal.aborted) return
      if (error.code === 'changed') await showAnew(item.name)
      else say(error.message, true)
    }
  }

  async function showAnew(name) {
    const index = await library.reload(name)
    if (index === null) say(TEXT.gone(name), true)
    else await show(index)
  }

  function drawItem() {
    const [at, total] = library.place(item.index)
    const size = library.size()
    title.textContent = title.title = item.name
    place.textContent = TEXT.place(at, total)
    facts.textContent = TEXT.facts(item, item.crop && size ? TEXT.trained(size.width, size.height) : '')
    picture.style.setProperty('--ratio', item.width / item.height)
    image.src = library.url(item.index)
    image.alt = item.name
    // Not disabled: that would take the focus out of the dialog at both ends.
    previous.setAttribute('aria-disabled', !library.beside(item.index, -1))
    next.setAttribute('aria-disabled', !library.beside(item.index, 1))
    drawMarks()
    source.textContent = ''
    drawLines()
  }

  function drawMarks() {
    // The checker's findings are told one by one below, so the mark that sums them up is not repeated.
    const marks = item.marks.filter(({ kind }) => kind !== 'json' || !details?.findings.length)
    const told = (details?.findings ?? []).map((text) => ({ kind: 'json', text }))
    findings.replaceChildren(...[...marks, ...told].map(markLine))
  }

  function drawDetails() {
    drawMarks()
    source.textContent = TEXT.source[item.source] ?? TEXT.source[details.source] ?? ''
    drawLines()
  }

  function drawLines() {
    const boxes = details?.boxes ?? []
    cropLabel.hidden = !item.crop
    boxLabel.hidden = boxes.length === 0
    over.replaceChildren(...[cropSwitch.checked && cropFrame(item), ...(boxSwitch.checked ? boxes.map(captionBox) : [])]
      .filter(Boolean))
  }

  function say(text, isBad = false) {
    status.textContent = text
    status.classList.toggle('i4-bad', isBad)
  }

  async function save(text) {
    if (!details) return false
    if (text !== null && !editor.isChanged()) return true
    const { index, name } = item
    editor.setBusy(true)
    try {
      details = await library.save(index, text, details.caption)
      item = library.itemAt(index)
      editor.show(details)
      drawDetails()
      say(text === null ? TEXT.restored : TEXT.saved)
      question.hidden = true
      return true
    } catch (error) {
      if (error.code === 'changed') await compareAnew(name)
      else say(error.message, true)
      return false
    } finally {
      editor.setBusy(false)
    }
  }

  /** The dataset is not what it was: show what it holds now, and keep what is typed. */
  async function compareAnew(name) {
    try {
      const index = await library.reload(name)
      if (index === null) return say(TEXT.gone(name), true)
      item = library.itemAt(index)
      details = await library.read(index, reading.signal)
      drawItem()
      drawDetails()
      editor.show(details, true)
      say(TEXT.changed, true)
    } catch (error) {
      say(error.message, true)
    }
  }

  /** Do `then`, unless a text would be lost by it: ask first. */
  function unlessUnsaved(then) {
    if (!editor.isChanged()) return then()
    const choice = (text, action, kind = '') =>
      el('button', { type: 'button', class: `i4-button ${kind}`, onclick: action }, text)
    const stay = () => {
      question.hidden = true
      editor.focus()
    }
    const first = choice(TEXT.saveIt, async () => (await save(editor.typed())) && then(), 'i4-primary')
    question.replaceChildren(el('span', {}, TEXT.unsaved), first, choice(TEXT.discard, then), choice(TEXT.stay, stay))
    question.hidden = false
    first.focus()
  }

  function askToClose() {
    unlessUnsaved(() => dialog.close())
  }

  function go(step) {
    const beside = item && library.beside(item.index, step)
    if (beside) unlessUnsaved(() => show(beside.index))
  }

  function onKey(event) {
    // ComfyUI has shortcuts of its own on the same keys, Ctrl+Enter among them.
    event.stopPropagation()
    const typing = event.target.matches('textarea')
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key]
    const done = () => event.preventDefault()
    if (event.key === 'Escape') {
      done()
      if (question.hidden) askToClose()
      else question.lastElementChild.click()
    } else if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
      done()
      save(editor.typed())
    } else if (step && !typing && !event.altKey) {
      done()
      go(step)
    }
  }

  function keepPage(event) {
    if (editor.isChanged()) event.preventDefault()
  }

  function arrow(sign, label, step) {
    const onclick = () => go(step)
    return el('button', { type: 'button', class: 'i4-button i4-arrow', 'aria-label': label, onclick }, sign)
  }

  return { open, element: dialog, index: () => item?.index ?? null }
}
