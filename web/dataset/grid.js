// The contact sheet itself: tiles in rows, some hundred at a time, walked through with the arrow keys.

import { el } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'
import { PAGE } from './library.js'
import { createTile } from './tile.js'

const TEXT = await translated('dataset/grid', {
  label: 'Images of the dataset',
  more: (count, left) => `Show ${count} more (${left} left)`,
  none: 'No image needs attention.'
})

/** `{ element, show(items, urlOf, isSame) }`. `onOpen(index)` is called for a tile that is clicked. */
export function createGrid({ onOpen }) {
  const list = el('ul', { class: 'i4-grid', 'aria-label': TEXT.label })
  const more = el('button', { type: 'button', class: 'i4-button i4-more' })
  const none = el('p', { class: 'i4-quiet' }, TEXT.none)
  const element = el('div', {}, list, none, more)
  let tiles = new Map() // by the name of the image
  let shown = { items: [], urlOf: null }
  let limit = PAGE

  function draw() {
    const { items, urlOf } = shown
    const kept = new Map()
    for (const item of items.slice(0, limit)) {
      const tile = tiles.get(item.name) ?? createTile()
      tile.show(item, urlOf(item.index))
      kept.set(item.name, tile)
    }
    tiles = kept
    reorder(list, Array.from(kept.values(), (tile) => tile.element))
    none.hidden = items.length > 0
    more.hidden = items.length <= limit
    more.textContent = TEXT.more(Math.min(PAGE, items.length - limit), items.length - limit)
    if (!list.querySelector('[tabindex="0"]')) list.querySelector('.i4-tile')?.setAttribute('tabindex', '0')
  }

  function focus(tile) {
    for (const other of list.querySelectorAll('[tabindex="0"]')) other.setAttribute('tabindex', '-1')
    tile.setAttribute('tabindex', '0')
    tile.focus()
  }

  more.addEventListener('click', () => {
    const first = limit
    limit += PAGE
    draw()
    const next = list.children[first]?.firstElementChild
    if (next) focus(next)
  })
  list.addEventListener('click', (event) => {
    const tile = event.target.closest('.i4-tile')
    if (!tile) return
    focus(tile)
    onOpen(Number(tile.dataset.index))
  })
  list.addEventListener('keydown', (event) => {
    const here = event.target.closest('.i4-tile')
    const next = here && tileBeside(list, here, event.key)
    if (!next) return
    event.preventDefault()
    focus(next)
  })

  return {
    element,
    /** `isSame`: of the same dataset as before, so that what is there stays in its place. */
    show(items, urlOf, isSame) {
      if (!isSame) {
        tiles = new Map()
        limit = PAGE
      }
      shown = { items, urlOf }
      draw()
    },
    focusOn(index) {
      const tile = list.querySelector(`.i4-tile[data-index="${index}"]`)
      if (tile) focus(tile)
    }
  }
}

/** Give `list` these tiles in this order, moving none that stands right: a move would lose focus. */
function reorder(list, tiles) {
  const wanted = new Set(tiles)
  for (const place of [...list.children]) if (!wanted.has(place.firstElementChild)) place.remove()
  tiles.forEach((tile, at) => {
    const there = list.children[at]
    if (there?.firstElementChild === tile) return
    list.insertBefore(tile.parentElement ?? el('li', {}, tile), there ?? null)
  })
}

function tileBeside(list, here, key) {
  const all = [...list.querySelectorAll('.i4-tile')]
  const at = all.indexOf(here)
  const top = all[0].offsetTop
  const columns = Math.max(1, all.findIndex((tile) => tile.offsetTop > top))
  const perRow = all.at(-1).offsetTop === top ? all.length : columns
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: perRow, ArrowUp: -perRow }[key]
  if (key === 'Home') return all[0]
  if (key === 'End') return all.at(-1)
  return step ? all[at + step] : null
}
