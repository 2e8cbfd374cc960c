// The marks for what is wrong with an image: a sign and a word each, the whole sentence behind them.

import { el, svg } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'

const TEXT = await translated('dataset/marks', {
  word: { too_small: 'too small', no_caption: 'no caption', json: 'check JSON', near_duplicate: 'look-alike' },
  other: 'look here'
})

// Lines on a field of 12 by 12.
const SIGNS = {
  too_small: 'M1.5 4V1.5H4M8 1.5h2.5V4M10.5 8v2.5H8M4 10.5H1.5V8M4.8 4.8h2.4v2.4H4.8z',
  no_caption: 'M1.5 3h9M1.5 6h4M1.5 9h3M7.2 7.2l3.6 3.6M10.8 7.2l-3.6 3.6',
  json: 'M4.5 1.5H4c-1 0-1.2.6-1.2 1.4v1.6c0 .9-.3 1.5-1.3 1.5 1 0 1.3.6 1.3 1.5v1.6c0 .8.2 1.4 1.2 1.4h.5' +
    'M7.5 1.5H8c1 0 1.2.6 1.2 1.4v1.6c0 .9.3 1.5 1.3 1.5-1 0-1.3.6-1.3 1.5v1.6c0 .8-.2 1.4-1.2 1.4h-.5',
  near_duplicate: 'M1.5 1.5h6v6h-6zM10.5 4.5v6h-6',
  other: 'M6 1.5v5.5M6 9.5v1'
}

/** `3 too small, 1 look-alike` of the kinds among these marks. */
export function countedKinds(marks) {
  const counts = new Map()
  for (const { kind } of marks) counts.set(kind, (counts.get(kind) ?? 0) + 1)
  return Array.from(counts, ([kind, count]) => `${count} ${wordOf(kind)}`).join(', ')
}

export function markBadge({ kind, text }) {
  return el('span', { class: 'i4-mark', title: text }, sign(kind), wordOf(kind))
}

/** A mark with its sentence in full. */
export function markLine({ kind, text }) {
  return el('li', { class: 'i4-mark-line' }, sign(kind), el('span', {}, text))
}

function wordOf(kind) {
  return TEXT.word[kind] ?? TEXT.other
}

function sign(kind) {
  return svg('svg', { viewBox: '0 0 12 12', class: 'i4-mark-sign', 'aria-hidden': 'true' },
    svg('path', { d: SIGNS[kind] ?? SIGNS.other, fill: 'none', stroke: 'currentColor', 'stroke-width': 1.3 }))
}
