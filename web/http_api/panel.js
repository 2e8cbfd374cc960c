// The HTTP API in ComfyUI's settings: whether it is on, its key, the model files that it uses, how it is called.
//
// A key is on this page only while it is new. It goes to the pack's own route and nowhere else: ComfyUI's settings are
// sent to every page.

import { getJson, postJson } from '../lib/api.js'
import { el, loadStyles } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'
import { copyButton } from './copy.js'
import { createExample } from './example.js'

const TEXT = await translated('http_api/panel', {
  loading: 'Asking ComfyUI …',
  on: 'On',
  off: 'Off',
  why: {
    settings: 'for programs that send the key.',
    environment: 'for programs that send the key in IDEOGRAM4_API_KEY. It is changed there.',
    '': 'until there is a key.'
  },
  newKey: 'New key',
  turnOff: 'Turn off',
  replaces: 'A new key replaces the present one, which stops working at once.',
  isOff: 'The API is off. Its key is deleted.',
  fresh: 'Your new key',
  freshWords: 'It is shown only now, and cannot be read here again. Copy it to where your programs find it.',
  own: 'A key of your own',
  ownHint: '16 characters or more',
  set: 'Set',
  isSet: 'Your key is set.',
  models: 'Model files',
  kinds: {
    diffusion_model: 'Diffusion model',
    unconditional: 'Unconditional model',
    text_encoder: 'Text encoder',
    vae: 'VAE'
  },
  standard: (name) => `Standard: ${name}`,
  noStandard: 'No standard file here: choose one',
  gone: (name) => `${name} (not there any more)`,
  maxImages: 'Most images in a dataset',
  maxImagesHint: 'On Ideogram\'s routes. Ideogram itself takes 100.',
  saved: 'Saved.'
})
const KEY_BYTES = 32

/** The panel, as an element that fills itself. */
export function createApiPanel() {
  loadStyles('http_api.css', import.meta.url)
  let told = null // the server's answer

  const word = el('strong', {}, TEXT.loading)
  const why = el('span', {})
  const light = el('span', { class: 'i4-api-light', 'aria-hidden': 'true' })
  const state = el('p', { class: 'i4-api-state' }, light, el('span', {}, word, ' ', why))
  const problem = el('p', { class: 'i4-api-problem', role: 'alert', hidden: true })
  const fresh = freshKey()
  const newKey = el('button', { type: 'button', class: 'i4-button i4-api-primary', onclick: makeKey }, TEXT.newKey)
  const turnOff = el('button', { type: 'button', class: 'i4-button', onclick: endKey }, TEXT.turnOff)
  const replaces = el('span', { class: 'i4-quiet' }, TEXT.replaces)
  const keys = el(
    'div',
    { hidden: true },
    el('div', { class: 'i4-api-row' }, newKey, turnOff, replaces),
    fresh.element,
    ownKey(changeKey)
  )
  const choosers = Object.keys(TEXT.kinds).map((kind) => chooser(kind, (name) => change({ models: { [kind]: name } })))
  const most = mostImages((value) => change({ max_images: value }))
  const outcome = el('p', { class: 'i4-api-outcome', role: 'status' })
  const example = createExample()
  const rest = el(
    'div',
    { class: 'i4-api-rest', hidden: true },
    el('fieldset', {}, el('legend', {}, TEXT.models), choosers.map((one) => one.element), most.element),
    example.element
  )
  const element = el('div', { class: 'i4-panel i4-api' }, state, problem, keys, outcome, rest)
  // Letters are for what has the focus here, not for the graph behind; Escape and Tab are the dialog's.
  element.addEventListener('keydown', (event) => {
    if (!['Escape', 'Tab'].includes(event.key)) event.stopPropagation()
  })
  getJson('/api').then(show, fail)
  return element

  function show(answer) {
    told = answer
    const fixed = told.source === 'environment'
    element.dataset.on = told.on
    word.textContent = told.on ? TEXT.on : TEXT.off
    why.textContent = told.problem && !told.on ? '' : TEXT.why[told.source]
    say(told.problem)
    keys.hidden = fixed
    turnOff.hidden = replaces.hidden = !told.on
    for (const one of choosers) one.show(told)
    most.show(told.max_images)
    example.show(told.addresses)
    rest.hidden = !told.on // who does not use it need not choose anything
  }

  function say(words) {
    problem.textContent = words
    problem.hidden = !words
  }

  function fail(error) {
    if (told) show(told) // controls go back to what is
    else state.hidden = true
    say(error.message)
    problem.scrollIntoView({ block: 'nearest' })
  }

  /** Have the server set something; whether it did. */
  async function change(values, words = TEXT.saved) {
    outcome.textContent = ''
    try {
      show(await postJson('/api', values))
    } catch (error) {
      fail(error)
      return false
    }
    outcome.textContent = words
    return true
  }

  async function changeKey(key, words) {
    const done = await change({ key }, words)
    if (done) fresh.hide()
    return done
  }

  async function endKey() {
    if (await changeKey(null, TEXT.isOff)) newKey.focus() // the button that was pressed is gone
  }

  async function makeKey() {
    const key = randomKey()
    if (await changeKey(key, '')) fresh.show(key)
  }
}

/** 256 random bits, in letters that need no escaping anywhere. */
function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(KEY_BYTES))
  return btoa(String.fromCharCode(...bytes)).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '')
}

/** `{ element, show(key), hide() }`. */
function freshKey() {
  const input = el('input', { type: 'text', readonly: true, 'aria-label': TEXT.fresh, autocomplete: 'off', spellcheck: 'false' })
  const element = el(
    'div',
    { class: 'i4-api-fresh', hidden: true },
    el('h4', {}, TEXT.fresh),
    el('div', { class: 'i4-api-row' }, input, copyButton(() => input.value, input)),
    el('p', {}, TEXT.freshWords)
  )
  return {
    element,
    show(key) {
      input.value = key
      element.hidden = false
      input.focus()
      input.select()
    },
    hide() {
      input.value = ''
      element.hidden = true
    }
  }
}

function ownKey(changeKey) {
  const input = el('input', {
    id: 'i4-api-own',
    type: 'password',
    required: true,
    minlength: 16,
    placeholder: TEXT.ownHint,
    autocomplete: 'new-password'
  })
  return el(
    'form',
    {
      class: 'i4-api-field',
      async onsubmit(event) {
        event.preventDefault()
        if (await changeKey(input.value, TEXT.isSet)) input.value = ''
      }
    },
    el('label', { for: input.id }, TEXT.own),
    el('div', { class: 'i4-api-row' }, input, el('button', { type: 'submit', class: 'i4-button' }, TEXT.set))
  )
}

/** One kind of model file: `{ element, show(told) }`. */
function chooser(kind, choose) {
  const select = el('select', { onchange: () => choose(select.value) })
  return {
    element: el('label', { class: 'i4-api-field' }, el('span', {}, TEXT.kinds[kind]), select),
    show({ models, choices, standard }) {
      const chosen = models[kind]
      const usual = standard[kind] ? TEXT.standard(standard[kind]) : TEXT.noStandard
      const gone = chosen && !choices[kind].includes(chosen)
      select.replaceChildren(
        el('option', { value: '' }, usual),
        ...(gone ? [el('option', { value: chosen }, TEXT.gone(chosen))] : []),
        ...choices[kind].map((name) => el('option', { value: name }, name))
      )
      select.value = chosen
      select.classList.toggle('i4-api-missing', Boolean(gone) || (!chosen && !standard[kind]))
    }
  }
}

/** `{ element, show(number) }`. */
function mostImages(choose) {
  const changed = () => choose(input.value === '' ? null : Number(input.value))
  const input = el('input', { type: 'number', min: 15, step: 1, onchange: changed })
  const hint = el('span', { class: 'i4-quiet' }, TEXT.maxImagesHint)
  return {
    element: el('label', { class: 'i4-api-field' }, el('span', {}, TEXT.maxImages), input, hint),
    show(number) {
      input.value = number
    }
  }
}
