// The cursor of the loss chart: by pointer or by keyboard, with the values of the step under it in words.

import { el } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'
import { nearestPoint } from './state.js'
import { formatShort } from './words.js'

const TEXT = await translated('run/cursor', {
  label: 'Step under the cursor of the loss chart',
  step: 'step',
  loss: 'loss',
  smoothed: 'smoothed',
  validation: 'validation',
  train: 'training images',
  rate: 'rate',
  at: 'at',
  skipped: 'update skipped',
  hint: 'Point at the chart, or focus it and use the arrow keys.'
})
const PAGE = 0.1

/**
 * `{ element, readout, place(geometry) }`. `element` lies over the chart; `readout` is a line of values.
 * `stateNow()` gives the state that is drawn; `geometry` is { toX, toY, box: { width, height, margins }, log }.
 */
export function chartCursor(stateNow) {
  let geometry = null
  let step = null
  const line = el('div', { class: 'i4-cursor-line', hidden: true })
  const element = el(
    'div',
    { class: 'i4-cursor', role: 'slider', tabindex: 0, 'aria-label': TEXT.label, 'aria-valuemin': 0, 'aria-valuemax': 0, 'aria-valuenow': 0 },
    line
  )
  const readout = el('div', { class: 'i4-readout' })

  element.addEventListener('pointermove', (event) => {
    if (!geometry) return
    // The node is scaled with the canvas, so pixels of the screen are not those of the chart.
    const box = element.getBoundingClientRect()
    const x = ((event.clientX - box.left) / box.width) * geometry.box.width
    const { left, right, width } = geometry.box
    const share = Math.min(1, Math.max(0, (x - left) / (width - left - right)))
    moveTo(Math.round(share * lastShown()))
  })
  element.addEventListener('pointerleave', () => {
    if (document.activeElement !== element) moveTo(null)
  })
  element.addEventListener('blur', () => moveTo(null))
  element.addEventListener('keydown', onKey)

  function onKey(event) {
    const points = stateNow()?.points ?? []
    if (!points.length || !geometry) return
    const last = points.at(-1).step
    const perPixel = event.shiftKey ? 1 : Math.max(1, Math.round(last / geometry.box.width))
    const now = step ?? last
    const to = {
      ArrowLeft: now - perPixel,
      ArrowDown: now - perPixel,
      ArrowRight: now + perPixel,
      ArrowUp: now + perPixel,
      PageUp: now + Math.ceil(last * PAGE),
      PageDown: now - Math.ceil(last * PAGE),
      Home: points[0].step,
      End: last,
      Escape: null
    }[event.key]
    if (to === undefined) return
    event.preventDefault()
    moveTo(to === null ? null : Math.min(last, Math.max(points[0].step, to)))
  }

  function moveTo(next) {
    step = next
    show()
  }

  /** The step at the right end of the chart. */
  function lastShown() {
    const { toX, box } = geometry
    const perStep = toX(1) - toX(0)
    return (box.width - box.right - box.left) / perStep
  }

  function show() {
    const state = stateNow()
    const point = state && geometry ? nearestPoint(state.points, step ?? Infinity) : null
    line.hidden = step === null || !point
    if (!point) {
      readout.replaceChildren(el('span', { class: 'i4-quiet' }, TEXT.hint))
      return
    }
    const validation = state.validations.find((one) => one.step === point.step) ?? nearby(state.validations, point.step)
    const values = [
      [TEXT.step, point.step.toLocaleString('en')],
      [TEXT.loss, point.skipped ? TEXT.skipped : words(point.loss)],
      [TEXT.smoothed, words(point.smoothed)],
      [TEXT.rate, words(point.rate)],
      validation && [TEXT.validation, words(validation.loss) + at(validation, point)],
      validation?.trainLoss != null && [TEXT.train, words(validation.trainLoss)]
    ].filter(Boolean)
    readout.replaceChildren(...values.map(([name, value]) => el('span', {}, el('i', {}, name), ' ', el('b', {}, value))))
    element.setAttribute('aria-valuemax', state.points.at(-1).step)
    element.setAttribute('aria-valuenow', point.step)
    element.setAttribute('aria-valuetext', values.map((pair) => pair.join(' ')).join(', '))
    if (step === null) return
    const { toX, box } = geometry
    line.style.left = `${(toX(point.step) / box.width) * 100}%`
    line.style.top = `${(box.top / box.height) * 100}%`
    line.style.bottom = `${(box.bottom / box.height) * 100}%`
  }

  return {
    element,
    readout,
    place(next) {
      geometry = next
      show()
    }
  }
}

/** The newest validation up to a step. */
function nearby(validations, step) {
  return validations.findLast((one) => one.step <= step)
}

/** Of which step a validation is, where that is another one than the cursor's. */
function at(validation, point) {
  return validation.step === point.step ? '' : ` ${TEXT.at} ${validation.step.toLocaleString('en')}`
}

function words(value) {
  return value === null ? '–' : formatShort(value)
}
