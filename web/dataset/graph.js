// What the graph says about a dataset node: its own widgets, and the size that is chosen downstream.

import { downstream, hostsAround, setWidgets, widgetOf, widgetValue } from '../lib/nodes.js'

const RESOLUTION = 'Ideogram4ResolveResolution'

/**
 * What is to be shown for a dataset node: `{ dataset, url, wishes }`. `dataset` is "" where a link brings it or nothing
 * is chosen; `url` says that an address is used instead.
 */
export function nodeChoice(node) {
  const dataset = widgetValue(node, 'dataset')
  return {
    dataset: typeof dataset === 'string' && dataset !== 'none' ? dataset : '',
    linked: dataset === undefined,
    url: Boolean(widgetValue(node, 'url')?.trim()),
    wishes: {
      resolution: chosenResolution(node),
      default_caption: widgetValue(node, 'default_caption') ?? '',
      force_default_caption: widgetValue(node, 'force_default_caption') === true
    }
  }
}

/** auto, a preset or WIDTHxHEIGHT, as the node behind the dataset output says; auto where there is none. */
function chosenResolution(node) {
  const chooser = downstream(node, 0, RESOLUTION)
  const choice = chooser && widgetValue(chooser, 'resolution')
  if (!choice) return 'auto'
  return choice === 'custom' ? String(widgetValue(chooser, 'custom') ?? '').trim() || 'custom' : choice
}

/** Make `name` the chosen dataset of a node, as if it had been picked from the list. */
export function chooseDataset(node, name) {
  const own = node.widgets.find((candidate) => candidate.name === 'dataset')
  for (const widget of new Set([own, widgetOf(node, 'dataset')?.widget ?? own])) {
    const { values } = widget.options ?? {}
    if (Array.isArray(values) && !values.includes(name)) values.push(name)
  }
  setWidgets([{ node, name: 'dataset', value: name }])
}

/** The nodes outside of a dataset node's subgraph that it can take files for: what is chosen there, is chosen for it. */
export function hostsOfDataset(node) {
  return widgetOf(node, 'dataset') ? hostsAround(node) : []
}
