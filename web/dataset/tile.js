// One image of the contact sheet.

import { el } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'
import { cropFrame } from './frame.js'
import { markBadge } from './marks.js'

const TEXT = await translated('dataset/tile', {
  size: (width, height) => `${width} × ${height}`,
  noCaption: 'no caption',
  json: 'JSON',
  source: { default: 'default caption', forced: 'default caption', corrected: 'corrected' },
  broken: 'cannot be shown',
  open: 'Press Enter to see it large and to correct the caption.'
})

/** `{ element, show(item, url) }`; `show` again updates it in place, and a picture that is there stays. */
export function createTile() {
  const image = el('img', { alt: '', loading: 'lazy', decoding: 'async', draggable: 'false' })
  const over = el('span', { class: 'i4-over' })
  const picture = el('span', { class: 'i4-picture' }, image, over)
  const marks = el('span', { class: 'i4-marks' })
  const words = el('span', { class: 'i4-words' })
  const element = el('button', { type: 'button', class: 'i4-tile', tabindex: -1 },
    el('span', { class: 'i4-thumb' }, picture, marks), words)
  image.addEventListener('error', () => element.classList.add('i4-broken'))
  image.addEventListener('load', () => element.classList.remove('i4-broken'))

  return {
    element,
    show(item, url) {
      picture.style.setProperty('--ratio', item.width / item.height)
      over.replaceChildren(...[cropFrame(item)].filter(Boolean))
      marks.replaceChildren(...item.marks.map(markBadge))
      const tags = [TEXT.source[item.source], item.json && TEXT.json].filter(Boolean)
      const tagged = tags.map((tag) => el('span', { class: 'i4-tag' }, tag))
      words.replaceChildren(...tagged, firstWords(item) || TEXT.noCaption)
      words.classList.toggle('i4-none', !item.caption)
      words.dataset.broken = TEXT.broken
      element.dataset.index = item.index
      element.title = `${item.name}, ${TEXT.size(item.width, item.height)}\n${TEXT.open}`
      element.setAttribute('aria-label', label(item))
      if (!image.complete || !image.naturalWidth) image.src = url
    }
  }
}

/** Of a JSON caption what it says of the whole picture, where it begins with that. */
function firstWords({ caption, json }) {
  const found = json && /^\s*\{\s*"high_level_description"\s*:\s*"((?:[^"\\]|\\.)+)/.exec(caption)
  if (!found) return caption
  try {
    return JSON.parse(`"${found[1]}"`)
  } catch {
    return caption // cut off within an escape
  }
}

function label({ name, width, height, caption, marks }) {
  return [name, TEXT.size(width, height), ...marks.map(({ text }) => text), caption || TEXT.noCaption].join('; ')
}
