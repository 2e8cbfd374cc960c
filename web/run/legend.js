// The legend of the loss chart, whose entries switch lines and marks on and off, and the switch of its scale.

import { el, svg } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'
import { setting } from '../lib/settings.js'

const TEXT = await translated('run/legend', {
  label: 'Lines and marks of the chart',
  log: 'Log scale',
  logTitle: 'Logarithmic scale of the loss',
  switchTitle: 'Show or hide this'
})

/**
 * `{ element, off, log, show(state) }`. `off` is the set of names that are switched off; `onChange()` is called when
 * the user switches something. Only what the run has is in the legend.
 *
 * lines: name to words. glyphs, marks: name to the `d` of a path, and to words.
 */
export function chartLegend(lines, glyphs, marks, onChange) {
  const off = new Set()
  const legend = { element: null, off, log: setting('LogScale'), show }
  const entries = [
    ...Object.entries(lines).map(([name, words]) => [name, entry(name, words, sample(name))]),
    ...Object.entries(marks).map(([name, words]) => [name, entry(name, words, glyph(name, glyphs[name]))])
  ]
  const log = el('button', { type: 'button', class: 'i4-key i4-key-log', title: TEXT.logTitle, 'aria-pressed': String(legend.log) }, TEXT.log)
  log.addEventListener('click', () => {
    legend.log = !legend.log
    log.setAttribute('aria-pressed', String(legend.log))
    onChange()
  })
  legend.element = el('div', { class: 'i4-legend', role: 'group', 'aria-label': TEXT.label }, entries.map(([, button]) => button), log)

  function entry(name, words, picture) {
    const button = el(
      'button',
      { type: 'button', class: 'i4-key', title: TEXT.switchTitle, 'aria-pressed': 'true', 'data-name': name, hidden: true },
      picture,
      words
    )
    button.addEventListener('click', () => {
      if (!off.delete(name)) off.add(name)
      button.setAttribute('aria-pressed', String(!off.has(name)))
      onChange()
    })
    return button
  }

  function show(state) {
    const has = {
      raw: state.points.length > 0,
      smooth: state.points.length > 0,
      validation: state.validations.length > 0,
      train: state.validations.some(({ trainLoss }) => trainLoss !== null),
      checkpoint: state.checkpoints.length > 0,
      preview: state.previews.size > 0,
      note: state.notes.length > 0
    }
    for (const [name, button] of entries) button.hidden = !has[name]
  }

  return legend
}

/** A piece of the line, as it looks in the chart. */
function sample(name) {
  const dot = { validation: () => svg('circle', { cx: 11, cy: 5, r: 3.2 }), train: () => svg('rect', { x: 8, y: 2, width: 6, height: 6 }) }
  const shape = dot[name]?.()
  shape?.setAttribute('class', `i4-line-${name}`)
  const line = svg('path', { class: `i4-line-${name}`, d: 'M1 5H21' })
  return svg('svg', { viewBox: '0 0 22 10', width: 22, height: 10, 'aria-hidden': 'true' }, line, shape)
}

function glyph(name, d) {
  const path = svg('path', { class: `i4-mark-${name}`, d, transform: 'translate(6 6)' })
  return svg('svg', { viewBox: '0 0 12 12', width: 12, height: 12, 'aria-hidden': 'true' }, path)
}
