// What the graph says about a dataset node: its own widgets, and the size that is chosen downstream.

const RESOLUTION = 'Ideogram4ResolveResolution'
const SUBGRAPH_OUTPUT = -20
const MAX_HOPS = 20

/** The value of a widget; undefined while a link brings it. */
export function widgetValue(node, name) {
  if (node.inputs?.some((input) => input.widget?.name === name && input.link != null)) return undefined
  return node.widgets?.find((widget) => widget.name === name)?.value
}

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
  const chooser = reader(node, 0, MAX_HOPS)
  const choice = chooser && widgetValue(chooser, 'resolution')
  if (!choice) return 'auto'
  return choice === 'custom' ? String(widgetValue(chooser, 'custom') ?? '').trim() || 'custom' : choice
}

/** The first resolution node that reads the output `slot` of `node`, through reroutes and subgraphs. */
function reader(node, slot, hops) {
  return follow(node.graph, node.outputs?.[slot]?.links, hops)
}

function follow(graph, linkIds, hops) {
  if (hops <= 0 || !graph) return null
  for (const id of linkIds ?? []) {
    const link = graph.getLink?.(id) ?? graph.links?.[id]
    const found = link && target(graph, link, hops - 1)
    if (found) return found
  }
  return null
}

function target(graph, link, hops) {
  if (Number(link.target_id) === SUBGRAPH_OUTPUT) {
    for (const host of hosts(graph)) {
      const found = reader(host, link.target_slot, hops)
      if (found) return found
    }
    return null
  }
  const node = graph.getNodeById(link.target_id)
  if (!node) return null
  if (node.comfyClass === RESOLUTION) return node
  if (node.subgraph) return follow(node.subgraph, node.subgraph.inputs[link.target_slot]?.linkIds, hops)
  return node.type === 'Reroute' ? reader(node, 0, hops) : null
}

/** The nodes that stand for a subgraph. */
function hosts(subgraph) {
  const root = subgraph.rootGraph
  if (!root || root === subgraph) return []
  const graphs = [root, ...(root.subgraphs?.values() ?? [])]
  return graphs.flatMap((graph) => graph.nodes.filter((node) => node.subgraph === subgraph))
}

/** Make `name` the chosen dataset of a node, as if it had been picked from the list. */
export function chooseDataset(node, name, canvas) {
  const widget = node.widgets.find((candidate) => candidate.name === 'dataset')
  const values = widget.options?.values
  canvas?.emitBeforeChange?.()
  if (Array.isArray(values) && !values.includes(name)) values.push(name)
  const before = widget.value
  widget.value = name
  widget.callback?.(name)
  node.onWidgetChanged?.('dataset', name, before, widget)
  canvas?.emitAfterChange?.()
  node.graph?.setDirtyCanvas?.(true, true)
}
