// The grid of previews: steps down, the newest on top, prompts across. A click shows a picture large.

import { routeUrl } from '../lib/api.js'
import { el } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'
import { previewSteps } from './state.js'
import { openViewer } from './viewer.js'

const TEXT = await translated('run/previews', {
  title: 'Previews',
  step: 'step',
  base: 'base',
  baseTitle: 'Step 0: the model without the LoRA',
  about: ({ width, height, seed, preset, every }) =>
    [width && `${width} × ${height}`, preset, seed !== undefined && `seed ${seed}`, every && `every ${every} steps`]
      .filter(Boolean)
      .join(', '),
  unguided: 'Made without guidance. Connect the unconditional model to the Previews node to see images as they will be.',
  open: (step, prompt) => `Preview of step ${step}, prompt ${prompt + 1}: show large`,
  alt: (step, text) => `Step ${step}: ${text}`,
  missing: 'none',
  grid: 'Previews: a row for each step, a column for each prompt'
})

/** `{ element, show(run, state) }`; hidden while there are no previews. */
export function previewGrid() {
  const about = el('span', { class: 'i4-quiet' })
  const unguided = el('p', { class: 'i4-previews-unguided', hidden: true }, TEXT.unguided)
  const grid = el('div', { class: 'i4-previews-grid', role: 'group', 'aria-label': TEXT.grid })
  const element = el(
    'section',
    { class: 'i4-previews', hidden: true },
    el('header', {}, el('h4', {}, TEXT.title), about),
    unguided,
    grid
  )
  let shownKeys = ''
  let now = { run: '', state: null }

  function show(run, state) {
    now = { run, state }
    const steps = state ? rowSteps(state) : []
    element.hidden = !steps.length
    const keys = JSON.stringify([run, state?.previewPlan?.prompts, [...(state?.previews.values() ?? [])]])
    if (keys === shownKeys) return
    shownKeys = keys
    if (element.hidden) {
      grid.replaceChildren()
      return
    }
    about.textContent = TEXT.about(state.previewPlan ?? {})
    unguided.hidden = state.previewPlan?.guided !== false
    const columns = columnCount(state)
    grid.style.setProperty('--i4-columns', columns)
    fillGrid(rows(steps, columns))
  }

  /** Pictures that are there already stay, so that nothing flickers and the focus is kept. */
  function fillGrid(cells) {
    const there = new Map([...grid.children].map((child) => [child.dataset.key, child]))
    const wanted = cells.map(({ key, make }) => there.get(key) ?? keyed(make(), key))
    for (const [index, cell] of wanted.entries()) {
      if (grid.children[index] !== cell) grid.insertBefore(cell, grid.children[index] ?? null)
    }
    while (grid.children.length > wanted.length) grid.lastChild.remove()
  }

  function rows(steps, columns) {
    const { run, state } = now
    const numbers = Array.from({ length: columns }, (_, prompt) => prompt)
    const head = numbers.map((prompt) => {
      const text = promptText(state, prompt)
      return { key: `prompt ${prompt} ${text}`, make: () => el('div', { class: 'i4-previews-prompt', title: text }, headOf(text)) }
    })
    const corner = { key: 'corner', make: () => el('div', { class: 'i4-previews-corner' }) }
    const body = steps.flatMap((step) => [
      { key: `step ${step}`, make: () => stepLabel(step) },
      ...numbers.map((prompt) => {
        const preview = state.previews.get(`${step}/${prompt}`)
        const key = JSON.stringify([run, step, prompt, preview?.time ?? null, promptText(state, prompt)])
        return { key, make: () => (preview ? thumb(preview) : el('div', { class: 'i4-previews-none i4-quiet' }, TEXT.missing)) }
      })
    ])
    return [corner, ...head, ...body]
  }

  function thumb({ step, prompt, time }) {
    const { run, state } = now
    const size = { width: state.previewPlan?.width ?? 1, height: state.previewPlan?.height ?? 1 }
    const alt = TEXT.alt(step, promptText(state, prompt))
    const image = el('img', { loading: 'lazy', decoding: 'async', alt, src: previewUrl(run, { step, prompt, time }, 'thumb'), ...size })
    return el(
      'button',
      { type: 'button', class: 'i4-previews-thumb', 'aria-label': TEXT.open(step, prompt), onclick: () => open(step, prompt) },
      image
    )
  }

  function open(step, prompt) {
    openViewer({ step, prompt }, () => ({
      steps: rowSteps(now.state),
      columns: columnCount(now.state),
      plan: now.state.previewPlan,
      text: (index) => promptText(now.state, index),
      url: (place) => {
        const preview = now.state.previews.get(`${place.step}/${place.prompt}`)
        return preview ? previewUrl(now.run, preview) : null
      }
    }))
  }

  return { element, show }
}

/** From the newest to the base model. */
function rowSteps(state) {
  return previewSteps(state).reverse()
}

function columnCount(state) {
  let last = -1
  for (const { prompt } of state.previews.values()) last = Math.max(last, prompt)
  return Math.max(last + 1, state.previewPlan?.prompts.length ?? 0)
}

function promptText(state, prompt) {
  return state.previewPlan?.prompts[prompt] || `prompt ${prompt + 1}`
}

/** What a JSON caption is about in one sentence; other prompts as they are. */
function headOf(text) {
  if (!text.startsWith('{')) return text
  try {
    const { high_level_description: about } = JSON.parse(text)
    return typeof about === 'string' && about ? about : text
  } catch {
    return text
  }
}

/** With the time of the picture: a step that is done again has a new one under the same address. */
function previewUrl(run, { step, prompt, time }, size = 'large') {
  return routeUrl(`/runs/${encodeURIComponent(run)}/previews/${step}/${prompt}?size=${size}&t=${time}`)
}

function stepLabel(step) {
  const words = step === 0 ? [TEXT.base, el('small', {}, 'step 0')] : [el('small', {}, TEXT.step), step.toLocaleString('en')]
  return el('div', { class: 'i4-previews-step', title: step === 0 ? TEXT.baseTitle : null }, words)
}

function keyed(element, key) {
  element.dataset.key = key
  return element
}
