// The button for presets on the train node, and a line that says what was set last.

import { el, loadStyles } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'
import { openPresets } from './dialog.js'
import { shown } from './plan.js'

const TEXT = await translated('presets/panel', {
  label: 'Presets',
  button: 'Presets …',
  hint: 'Fill steps, learning rate, rank and resolution for a goal and a graphics card.',
  done: (rows) => `Set ${rows.join(', ')}.`
})

/** The bar for the panel of a new train node. */
export function presetsBar(node) {
  loadStyles('presets.css', import.meta.url)
  const said = el('span', { class: 'i4-quiet', role: 'status' })
  const show = (rows) => {
    said.textContent = rows.length ? TEXT.done(rows.map(({ values }) => `${Object.keys(values)[0]} ${shown(values)}`)) : ''
    said.title = said.textContent
  }
  const open = () => openPresets(node, show)
  const button = el('button', { type: 'button', class: 'i4-button', title: TEXT.hint, onclick: open }, TEXT.button)
  return el('div', { class: 'i4-presets-bar', role: 'group', 'aria-label': TEXT.label }, button, said)
}
