// The nodes that a preset is about, seen from the train node, and what the server knows about their data.

import { api } from '../../../scripts/api.js'
import { getJson, postJson } from '../lib/api.js'
import { setWidgets, upstream, widgetValue } from '../lib/nodes.js'
import { setting } from '../lib/settings.js'
import { cardFor } from './plan.js'

/** { train, resolution, settings, dataset, model }: nodes, null where none is connected. */
export function nodesAround(train) {
  return {
    train,
    resolution: upstream(train, 'Ideogram4ResolveResolution'),
    settings: upstream(train, 'Ideogram4TrainSettings'),
    dataset: upstream(train, 'Ideogram4LoadDataset'),
    model: upstream(train, 'UNETLoader')
  }
}

/**
 * The rows of a plan with what the graph holds: { ...row, label, now: { widget: value }, state }, where `state` is change,
 * same, linked (a link brings the value) or absent (there is no such node).
 */
export function compare(rows, nodes) {
  return rows.map((row) => {
    const node = nodes[row.node]
    const [first] = Object.keys(row.values)
    const names = row.node === 'resolution' ? ['resolution', 'custom'] : [first]
    const now = Object.fromEntries(names.map((name) => [name, widgetValue(node, name)]))
    const label = node?.widgets.find(({ name }) => name === first)?.label ?? first
    return { ...row, label, now, state: stateOf(row, now, node) }
  })
}

function stateOf(row, now, node) {
  if (!node) return 'absent'
  const names = Object.keys(row.values)
  if (names.some((name) => now[name] === undefined)) return 'linked'
  return names.every((name) => now[name] === row.values[name]) ? 'same' : 'change'
}

/** Fill the widgets of these rows. */
export function apply(rows, nodes) {
  const changes = rows.flatMap((row) =>
    Object.entries(row.values).map(([name, value]) => ({ node: nodes[row.node], name, value }))
  )
  setWidgets(changes)
}

/** { count, width, height } of the connected dataset; null where it is not known. */
export async function askForData(dataset) {
  const name = widgetValue(dataset, 'dataset')
  if (!name || widgetValue(dataset, 'url')?.trim()) return null
  try {
    const found = (await getJson('/datasets')).datasets.find((entry) => entry.name === name)
    if (!found) return null
    const wishes = {
      resolution: 'auto',
      default_caption: widgetValue(dataset, 'default_caption') ?? '',
      force_default_caption: widgetValue(dataset, 'force_default_caption') === true
    }
    const { total, resolution } = await postJson(`/datasets/${found.id}/sheet`, { ...wishes, first: 0, count: 1 })
    return total && resolution ? { count: total, width: resolution.width, height: resolution.height } : null
  } catch {
    return null // a preset works without, and the dataset node says what is wrong
  }
}

/** GB of the card that is chosen in the settings, or that ComfyUI uses; null without one. */
export async function askForCard() {
  const chosen = Number(setting('Card'))
  if (chosen) return chosen
  try {
    const { devices } = await (await api.fetchApi('/system_stats')).json()
    const card = devices.find(({ type }) => type !== 'cpu')
    return card ? cardFor(card.vram_total) : null
  } catch {
    return null
  }
}
