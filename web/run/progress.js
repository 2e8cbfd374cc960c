// The head of the panel: state in words, progress, figures, and what needs attention.

import { el } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'
import { smoothedLoss, stepsDone } from './state.js'
import { describe, figures } from './words.js'

const TEXT = await translated('run/progress', {
  run: 'Run',
  progress: 'Steps done',
  steps: (done, all) => `step ${done.toLocaleString('en')} of ${all.toLocaleString('en')}`,
  figures: { left: 'time left', speed: 'per step', memory: 'memory', loss: 'loss' },
  titles: {
    left: 'By the mean speed since the run was started or resumed',
    speed: 'Mean since the run was started or resumed',
    memory: 'Most that the run had on the device beside the weights; – where it is not counted',
    loss: 'Smoothed: a mean over about fifty steps'
  },
  attention: 'Needs attention',
  unchanged:
    'Nothing was trained just now: nothing changed, so ComfyUI used its last result. To go on with this run, choose it under resume.',
  older: (count) => (count === 1 ? '1 earlier note' : `${count} earlier notes`),
  atStep: (step) => `step ${step.toLocaleString('en')}: `
})
/** One sign for each kind of state, so that it is not told by colour alone. */
const SIGNS = { none: '○', waiting: '◔', training: '▶', finished: '✓', stopped: '■', failed: '!', offline: '?' }
const NOTES_SHOWN = 20

/** `{ element, show(feed, preparing, problem) }`, as `describe` has them, with `select`, the choice of a run, in its first line. */
export function progressView(select) {
  const sign = el('span', { class: 'i4-state-sign', 'aria-hidden': 'true' })
  const title = el('strong', {})
  const detail = el('p', { class: 'i4-state-detail' })
  const status = el('div', { class: 'i4-state', role: 'status', 'aria-live': 'polite' }, sign, title, detail)
  const choice = el('label', { class: 'i4-run-choice' }, el('span', { class: 'i4-quiet' }, TEXT.run), select)
  const fill = el('div', { class: 'i4-bar-fill' })
  const bar = el('div', { class: 'i4-bar', role: 'progressbar', 'aria-label': TEXT.progress, 'aria-valuemin': 0 }, fill)
  const steps = el('span', { class: 'i4-steps' })
  const percent = el('span', { class: 'i4-quiet' })
  const values = Object.fromEntries(Object.keys(TEXT.figures).map((name) => [name, el('dd', {})]))
  const list = el(
    'dl',
    { class: 'i4-figures' },
    Object.entries(values).map(([name, value]) => el('div', { title: TEXT.titles[name] }, el('dt', {}, TEXT.figures[name]), value))
  )
  const numbers = el('div', { class: 'i4-numbers', hidden: true }, el('div', { class: 'i4-bar-line' }, steps, percent), bar, list)
  const notes = el('div', { class: 'i4-notes', hidden: true })
  const again = el('p', { class: 'i4-state-detail', role: 'status', hidden: true })
  const element = el('header', { class: 'i4-run-head' }, choice, status, again, numbers, notes)
  let shownNotes = ''

  function show(feed, preparing, problem) {
    const told = describe(feed, preparing, problem)
    element.dataset.kind = told.kind
    setText(sign, SIGNS[told.kind])
    setText(title, told.title)
    setText(detail, told.detail)
    const state = feed?.state
    numbers.hidden = !state?.started
    if (state?.started) showNumbers(feed, state)
    const written = state?.notes ?? []
    const lost = (feed?.told ?? []).filter((text) => !written.some((note) => note.text === text))
    // What ended the run is told above already.
    const all = [...written, ...lost.map((text) => ({ step: stepsDone(state), text }))]
    showNotes(all.filter(({ text }) => text !== state.end?.message))
  }

  /** Say whether ComfyUI has handed out the last result again instead of training. */
  function unchanged(is) {
    setText(again, is ? TEXT.unchanged : '')
    again.hidden = !is
  }

  function showNumbers(feed, state) {
    const done = stepsDone(state)
    const share = state.steps ? Math.min(1, done / state.steps) : 0
    setText(steps, TEXT.steps(done, state.steps))
    setText(percent, `${Math.floor(share * 100)} %`)
    bar.setAttribute('aria-valuemax', state.steps)
    bar.setAttribute('aria-valuenow', done)
    fill.style.width = `${share * 100}%`
    const words = figures(feed, smoothedLoss(state))
    for (const [name, value] of Object.entries(values)) setText(value, words[name])
    values.memory.title = state.memoryPlan
  }

  function showNotes(all) {
    const key = JSON.stringify(all)
    if (key === shownNotes) return
    shownNotes = key
    notes.hidden = !all.length
    if (!all.length) return
    const [newest, ...older] = all.slice(-NOTES_SHOWN).reverse()
    const line = ({ step, text }) => el('p', {}, el('b', {}, TEXT.atStep(step)), text)
    notes.replaceChildren(
      el('span', { class: 'i4-notes-sign', role: 'img', 'aria-label': TEXT.attention }, '⚠'),
      el(
        'div',
        {},
        line(newest),
        older.length ? el('details', {}, el('summary', {}, TEXT.older(older.length)), older.map(line)) : null
      )
    )
  }

  return { element, show, unchanged }
}

/** Only where it differs: a live region must not be read out again, nor a selection be lost. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text
}
