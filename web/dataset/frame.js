// Lines over a picture: the part that is trained, and the boxes of a JSON caption. All in parts of the picture.

import { el } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'

const TEXT = await translated('dataset/frame', { kind: { text: 'text' } })

/** The crop of an item of the sheet, with what is cut off darkened; null where nothing is trained of it. */
export function cropFrame({ crop, width, height }) {
  if (!crop) return null
  const [x, y, w, h] = crop
  return placed(el('span', { class: 'i4-crop' }), x / width, y / height, w / width, h / height)
}

/** A labelled box of a caption. */
export function captionBox({ label, kind, box }) {
  const words = TEXT.kind[kind] ? `${TEXT.kind[kind]}: ${label}` : label
  const element = el('span', { class: `i4-box i4-box-${kind === 'text' ? 'text' : 'obj'}`, title: words },
    el('span', { class: 'i4-box-label' }, words))
  return placed(element, ...box)
}

function placed(element, x, y, w, h) {
  const percent = (part) => `${(100 * part).toFixed(3)}%`
  Object.assign(element.style, { left: percent(x), top: percent(y), width: percent(w), height: percent(h) })
  return element
}
