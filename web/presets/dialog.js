// The dialog of presets: a goal, a card, and for every value what is there now, what would be set, and why.

import { el } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'
import { widgetValue } from '../lib/nodes.js'
import { apply, askForCard, askForData, compare, nodesAround } from './graph.js'
import { CARDS, formatOf, GOALS, plan, predict, shown } from './plan.js'

const TEXT = await translated('presets/dialog', {
  title: 'Presets',
  intro: 'A preset fills widgets of this graph, once. Nothing changes before you press Apply, and every value can be edited afterwards.',
  goal: 'What do you train?',
  goals: { style: 'Style', character: 'Character', object: 'Object' },
  card: 'Graphics card',
  cards: (size, last) => (last ? `${size} GB and more` : `${size} GB`),
  found: 'yours',
  columns: ['Set', 'Value', 'Now', 'Preset', 'Why'],
  states: { same: 'the same', linked: 'comes from a link' },
  absent: { settings: 'default', resolution: 'no node for it' },
  noData: 'Choose a dataset first to have its size and the number of its images taken into account.',
  prediction: ({ base, card, size, rank, mode, gib, resident }) =>
    `Predicted for ${base} at ${size}, rank ${rank}, on ${card} GB: ${mode}, ${gib} GiB, ` +
    (resident < 1 ? `${Math.round(resident * 100)} % of the weights stay on the card.` : 'all weights on the card.'),
  noPrediction: 'No prediction for these values.',
  honest: 'These are starting points from what is in use for models of this kind, and predicted memory. Neither has been measured on your images.',
  apply: 'Apply',
  cancel: 'Cancel',
  set: (name) => `Set ${name}`
})
const FALLBACK_CARD = 12
const DATA_PIXELS = 1024 * 1024

/** Open the dialog for a train node. `done(rows)` is told what was set. */
export function openPresets(train, done) {
  const nodes = nodesAround(train)
  const chosen = { goal: 'style', card: FALLBACK_CARD, foundCard: null, data: null, left: new Set() }
  let table = []
  let rows = []

  const body = el('div', { class: 'i4-presets-body' })
  const cards = el('fieldset', { class: 'i4-presets-choice' })
  const applyButton = el('button', { type: 'submit', class: 'i4-button i4-presets-apply' }, TEXT.apply)
  const dialog = el(
    'dialog',
    { class: 'i4-panel i4-presets', 'aria-labelledby': 'i4-presets-title', onclose: () => dialog.remove() },
    el(
      'form',
      { method: 'dialog', onsubmit: submit },
      el('h2', { id: 'i4-presets-title' }, TEXT.title),
      el('p', { class: 'i4-quiet' }, TEXT.intro),
      choice(el('fieldset', { class: 'i4-presets-choice' }), TEXT.goal, 'goal', Object.keys(GOALS), (goal) => TEXT.goals[goal]),
      cards,
      body,
      el('p', { class: 'i4-quiet' }, TEXT.honest),
      el(
        'div',
        { class: 'i4-presets-buttons' },
        el('button', { type: 'button', class: 'i4-button', onclick: () => dialog.close() }, TEXT.cancel),
        applyButton
      )
    )
  )
  // The graph's own keys are not for what is typed here.
  dialog.addEventListener('keydown', (event) => event.stopPropagation())
  showCards()
  show()
  document.body.append(dialog)
  dialog.showModal()
  askForData(nodes.dataset).then((data) => update({ data }))
  askForCard().then((card) => {
    if (card) update({ foundCard: card, card })
    showCards()
  })
  fetch(new URL('predictions.json', import.meta.url))
    .then((answer) => answer.json())
    .then((entries) => {
      table = entries
      show()
    })
    .catch(() => {}) // without them the presets are the same, and say less

  function submit() {
    const wanted = rows.filter((row) => row.state === 'change' && !chosen.left.has(keyOf(row)))
    apply(wanted, nodes)
    done(wanted)
  }

  function update(changes) {
    Object.assign(chosen, changes)
    show()
  }

  function choice(fieldset, legend, name, values, words) {
    const radios = values.map((value) => {
      const checked = String(chosen[name]) === String(value)
      const input = el('input', { type: 'radio', name: `i4-${name}`, value, onchange: () => update({ [name]: value }), checked })
      return el('label', {}, input, words(value))
    })
    fieldset.replaceChildren(el('legend', {}, legend), ...radios)
    return fieldset
  }

  function showCards() {
    const sizes = Object.keys(CARDS).map(Number)
    choice(cards, TEXT.card, 'card', sizes, (size) => {
      const words = TEXT.cards(size, size === sizes.at(-1))
      return size === chosen.foundCard ? `${words} (${TEXT.found})` : words
    })
  }

  function show() {
    rows = compare(plan(chosen.goal, chosen.card, chosen.data), nodes)
    body.replaceChildren(
      el(
        'table',
        {},
        el('thead', {}, el('tr', {}, TEXT.columns.map((title) => el('th', { scope: 'col' }, title)))),
        el('tbody', {}, rows.map(rowView))
      ),
      ...(chosen.data || !nodes.dataset ? [] : [el('p', { class: 'i4-quiet' }, TEXT.noData)]),
      el('p', {}, predictionWords())
    )
    showCount()
  }

  function rowView(row) {
    const key = keyOf(row)
    const change = row.state === 'change'
    const box = el('input', {
      type: 'checkbox',
      'aria-label': TEXT.set(row.label),
      checked: change && !chosen.left.has(key),
      onchange: ({ target }) => {
        chosen.left[target.checked ? 'delete' : 'add'](key)
        showCount()
      }
    })
    return el(
      'tr',
      { class: change ? null : 'i4-quiet' },
      el('td', {}, change ? box : null),
      el('th', { scope: 'row' }, row.label),
      el('td', {}, change ? shown(row.now) : (TEXT.states[row.state] ?? TEXT.absent[row.node])),
      el('td', {}, shown(row.values)),
      el('td', {}, row.why)
    )
  }

  function showCount() {
    applyButton.disabled = !rows.some((row) => row.state === 'change' && !chosen.left.has(keyOf(row)))
  }

  function predictionWords() {
    const base = formatOf(widgetValue(nodes.model, 'unet_name'))
    const { rank } = rows.find((row) => 'rank' in row.values).values
    const [width, height] = sizeOf(rows, chosen.data)
    const plan = predict(table, { base, pixels: width * height, rank, card: chosen.card })
    if (!plan) return TEXT.noPrediction
    return TEXT.prediction({ base, card: chosen.card, size: `${width}x${height}`, rank, ...plan })
  }
}

/** The size that a run would have: of the preset, or of a square of a usual size while the images are not known. */
function sizeOf(rows, data) {
  const custom = rows.find((row) => row.node === 'resolution')?.values.custom
  if (custom) return custom.split('x').map(Number)
  const side = Math.sqrt(DATA_PIXELS)
  return data ? [data.width, data.height] : [side, side]
}

function keyOf(row) {
  return Object.keys(row.values)[0]
}
