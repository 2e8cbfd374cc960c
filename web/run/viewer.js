// One preview large, in a dialog; the arrow keys go to the other steps and prompts.

import { el } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'

const TEXT = await translated('run/viewer', {
  label: 'Preview',
  close: 'Close',
  about: (step, prompt, seed) => `step ${step.toLocaleString('en')}, prompt ${prompt + 1}${seed === undefined ? '' : `, seed ${seed}`}`,
  base: 'the model without the LoRA',
  unguided: 'without guidance',
  hint: '↑ later and ↓ earlier steps, ← → other prompts, Esc closes',
  missing: 'There is no preview of this step and prompt.',
  moves: { ArrowUp: 'Later step', ArrowDown: 'Earlier step', ArrowLeft: 'Prompt before', ArrowRight: 'Next prompt' },
  signs: { ArrowUp: '↑', ArrowDown: '↓', ArrowLeft: '←', ArrowRight: '→' }
})
const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }

/**
 * Open the dialog at a `{ step, prompt }`. `shown()` gives what there is at the moment, as { steps, columns, plan,
 * text(prompt), url({ step, prompt }) }, `steps` as the grid has them from top to bottom: previews are added while it is
 * open.
 */
export function openViewer(start, shown) {
  let place = start
  const image = el('img', { class: 'i4-preview-viewer-image' })
  const missing = el('p', { class: 'i4-preview-viewer-missing' }, TEXT.missing)
  const about = el('p', { class: 'i4-preview-viewer-about', 'aria-live': 'polite' })
  const prompt = el('p', { class: 'i4-preview-viewer-prompt' })
  const moves = Object.keys(MOVES).map((key) =>
    el('button', { type: 'button', class: 'i4-button', 'aria-label': TEXT.moves[key], title: TEXT.moves[key], onclick: () => move(key) }, TEXT.signs[key])
  )
  const close = el('button', { type: 'button', class: 'i4-button', onclick: () => dialog.close() }, TEXT.close)
  const dialog = el(
    'dialog',
    { class: 'i4-panel i4-preview-viewer', 'aria-label': TEXT.label },
    el('div', { class: 'i4-preview-viewer-stage' }, image, missing),
    el('footer', {}, el('div', {}, about, prompt), el('div', { class: 'i4-preview-viewer-buttons' }, moves, close)),
    el('p', { class: 'i4-preview-viewer-hint i4-quiet' }, TEXT.hint)
  )
  dialog.addEventListener('keydown', (event) => {
    event.stopPropagation() // the graph behind has keys of its own
    if (!MOVES[event.key]) return
    event.preventDefault()
    move(event.key)
  })
  dialog.addEventListener('click', (event) => {
    if (event.target === dialog) dialog.close()
  })
  dialog.addEventListener('close', () => dialog.remove())

  function move(key) {
    const { steps, columns } = shown()
    const [down, across] = MOVES[key]
    const row = Math.min(steps.length - 1, Math.max(0, steps.indexOf(place.step) + down))
    const column = Math.min(columns - 1, Math.max(0, place.prompt + across))
    place = { step: steps[row] ?? place.step, prompt: column }
    show()
  }

  function show() {
    const { plan, text, url } = shown()
    const source = url(place)
    image.hidden = !source
    missing.hidden = Boolean(source)
    if (source) image.src = source
    image.alt = text(place.prompt)
    const facts = [TEXT.about(place.step, place.prompt, plan?.seed)]
    if (place.step === 0) facts.push(TEXT.base)
    if (plan && !plan.guided) facts.push(TEXT.unguided)
    about.textContent = facts.join(' · ')
    prompt.textContent = text(place.prompt)
  }

  document.body.append(dialog)
  show()
  dialog.showModal()
  close.focus()
}
