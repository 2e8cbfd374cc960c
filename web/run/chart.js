// The live loss chart: an SVG of our own that is drawn anew from a run's state.

import { el, svg } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'
import { chartCursor } from './cursor.js'
import { chartLegend } from './legend.js'
import { chartRange, linePath, scale, spread, ticks } from './plot.js'
import { bestValidation, smoothedLoss, stepsDone } from './state.js'
import { formatShort } from './words.js'

const TEXT = await translated('run/chart', {
  lines: { raw: 'each step', smooth: 'smoothed', validation: 'validation', train: 'training, same noise' },
  marks: { checkpoint: 'checkpoint', preview: 'preview', note: 'note' },
  best: 'best',
  bestTitle: (step, loss) => `Lowest validation loss: ${loss} at step ${step}`,
  markTitle: (what, step, more) => `${what} at step ${step}${more ? `: ${more}` : ''}`,
  empty: 'The loss appears here with the first step.',
  loss: 'loss',
  step: 'step',
  summary: (state, smoothed, best) =>
    `Loss over ${stepsDone(state)} of ${state.steps} steps. Smoothed loss now ${smoothed}.` +
    (best ? ` Lowest validation loss ${formatShort(best.loss)} at step ${best.step}.` : '')
})

const MARGIN = { left: 42, right: 12, top: 30, bottom: 22 }
/** What would lie on the edge of the plot, such as the newest dot, is shown whole. */
const BLEED = 6
const MARK_GAP = 11
/** About the point 0, 0. They differ in form, not only in colour. */
const GLYPHS = {
  checkpoint: 'M-3.5 -3.5H3.5V3.5H-3.5Z',
  preview: 'M0 -5L5 0L0 5L-5 0Z',
  note: 'M0 -5L5 4H-5Z'
}
const STAR = 'M0 -8L2 -2.7L7.6 -2.5L3.2 1L4.7 6.5L0 3.3L-4.7 6.5L-3.2 1L-7.6 -2.5L-2 -2.7Z'

/** `{ element, show(state) }`: a chart that takes the width and height of its place. */
export function lossChart() {
  let state = null
  let frame = 0
  const picture = svg('svg', { class: 'i4-chart-picture', role: 'img' })
  const cursor = chartCursor(() => state)
  const place = el('div', { class: 'i4-chart-place' }, picture, cursor.element)
  const legend = chartLegend(TEXT.lines, GLYPHS, TEXT.marks, draw)
  const element = el('div', { class: 'i4-chart' }, legend.element, place, cursor.readout)
  new ResizeObserver(draw).observe(place)

  /** At most once for a frame of the screen, and not while the node is out of sight. */
  function draw() {
    cancelAnimationFrame(frame)
    frame = requestAnimationFrame(() => {
      if (state && place.clientWidth > MARGIN.left + MARGIN.right) render()
    })
  }

  function render() {
    const box = { width: place.clientWidth, height: place.clientHeight }
    const { off, log } = legend
    const best = bestValidation(state)
    const shown = visibleValues(state, off)
    const range = chartRange(stepsDone(state), shown.noisy, shown.lines, log)
    const toX = scale(range.steps, [MARGIN.left, box.width - MARGIN.right])
    const toY = scale(range.values, [box.height - MARGIN.bottom, MARGIN.top], log)
    picture.setAttribute('viewBox', `0 0 ${box.width} ${box.height}`)
    picture.setAttribute('aria-label', state.points.length ? TEXT.summary(state, shortOrDash(smoothedLoss(state)), best) : TEXT.empty)
    picture.replaceChildren(
      axes(range, toX, toY, box, log),
      ...(state.points.length ? [] : [emptyText(box)]),
      svg('svg', plotArea(box), lines(state, off, toX, toY, log)),
      marks(state, off, toX, box),
      best && !off.has('validation') ? bestMark(best, toX, toY, box, log) : ''
    )
    legend.show(state)
    cursor.place({ toX, toY, box: { ...box, ...MARGIN }, log })
  }

  return {
    element,
    show(next) {
      state = next
      draw()
    }
  }
}

function visibleValues(state, off) {
  const values = (list, key) => list.map((item) => item[key])
  return {
    noisy: off.has('raw') ? [] : values(state.points, 'loss'),
    lines: [
      off.has('smooth') ? [] : values(state.points, 'smoothed'),
      off.has('validation') ? [] : values(state.validations, 'loss'),
      off.has('train') ? [] : values(state.validations, 'trainLoss')
    ]
  }
}

/** A picture in the picture, which cuts off what lies outside of the plot. */
function plotArea(box) {
  const width = box.width - MARGIN.left - MARGIN.right
  const height = Math.max(1, box.height - MARGIN.top - MARGIN.bottom)
  const area = { x: MARGIN.left - BLEED, y: MARGIN.top - BLEED, width: width + 2 * BLEED, height: height + 2 * BLEED }
  return { ...area, viewBox: Object.values(area).join(' ') }
}

function axes(range, toX, toY, { width, height }, log) {
  const bottom = height - MARGIN.bottom
  const across = ticks(range.values, Math.max(2, Math.floor(height / 45)), log).map((value) => [
    svg('line', { class: 'i4-chart-grid', x1: MARGIN.left, x2: width - MARGIN.right, y1: toY(value), y2: toY(value) }),
    svg('text', { class: 'i4-chart-tick', x: MARGIN.left - 6, y: toY(value) + 4, 'text-anchor': 'end' }, formatShort(value))
  ])
  const along = ticks(range.steps, Math.max(2, Math.floor(width / 90)))
    .filter(Number.isInteger)
    .map((step) => [
      svg('line', { class: 'i4-chart-grid', x1: toX(step), x2: toX(step), y1: bottom, y2: bottom + 4 }),
      svg(
        'text',
        { class: 'i4-chart-tick', x: toX(step), y: height - 4, 'text-anchor': toX(step) > width - 40 ? 'end' : 'middle' },
        step.toLocaleString('en')
      )
    ])
  const floor = svg('line', { class: 'i4-chart-axis', x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom })
  return svg('g', {}, across.flat(), along.flat(), floor)
}

function lines(state, off, toX, toY, log) {
  const of = (key) => (item) => (item[key] === null || (log && item[key] <= 0) ? null : item[key])
  const line = (name, list, key) =>
    off.has(name) ? '' : svg('path', { class: `i4-line-${name}`, d: linePath(list, of(key), toX, toY) })
  const dots = (name, key, shape) =>
    off.has(name)
      ? []
      : spread(state.validations.filter((item) => of(key)(item) !== null), ({ step }) => toX(step), MARK_GAP)
          .map((item) => shape(toX(item.step), toY(item[key]), `i4-line-${name}`))
  return [
    line('raw', state.points, 'loss'),
    line('smooth', state.points, 'smoothed'),
    line('train', state.validations, 'trainLoss'),
    line('validation', state.validations, 'loss'),
    dots('train', 'trainLoss', (x, y, name) => svg('rect', { class: name, x: x - 3, y: y - 3, width: 6, height: 6 })),
    dots('validation', 'loss', (x, y, name) => svg('circle', { class: name, cx: x, cy: y, r: 3.2 }))
  ].flat()
}

/** What happened when: notes and previews each in a lane above the plot, checkpoints on its floor. */
function marks(state, off, toX, { height }) {
  const lanes = { note: 8, preview: 20, checkpoint: height - MARGIN.bottom }
  const previews = [...new Set([...state.previews.values()].map(({ step }) => step))].sort((a, b) => a - b)
  const happened = {
    checkpoint: state.checkpoints.map(({ step }) => ({ step, more: '' })),
    preview: previews.map((step) => ({ step, more: '' })),
    note: [...state.notes].sort((a, b) => a.step - b.step).map(({ step, text }) => ({ step, more: text }))
  }
  const glyphs = Object.entries(happened).flatMap(([name, items]) =>
    off.has(name)
      ? []
      : spread(items, ({ step }) => toX(step), MARK_GAP).map(({ step, more }) =>
          svg(
            'path',
            { class: `i4-mark-${name}`, d: GLYPHS[name], transform: `translate(${toX(step).toFixed(1)} ${lanes[name]})` },
            svg('title', {}, TEXT.markTitle(TEXT.marks[name], step, more))
          )
        )
  )
  return svg('g', {}, glyphs)
}

function bestMark(best, toX, toY, { width }, log) {
  if (log && best.loss <= 0) return ''
  const x = toX(best.step)
  const y = toY(best.loss)
  const atRight = x > width - MARGIN.right - 44
  return svg(
    'g',
    { class: 'i4-mark-best' },
    svg('path', { d: STAR, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` }),
    svg('text', { x: atRight ? x - 10 : x + 10, y: y + 4, 'text-anchor': atRight ? 'end' : 'start' }, TEXT.best),
    svg('title', {}, TEXT.bestTitle(best.step, formatShort(best.loss)))
  )
}

function emptyText({ width, height }) {
  return svg('text', { class: 'i4-chart-empty', x: (width + MARGIN.left) / 2, y: height / 2, 'text-anchor': 'middle' }, TEXT.empty)
}

function shortOrDash(value) {
  return value === null ? '–' : formatShort(value)
}
