// Nodes wherever they are, in the graph or in subgraphs of it: their ids, their widgets, and what they read.

import { app } from '../../../scripts/app.js'

const SUBGRAPH_INPUT = -10
const SUBGRAPH_OUTPUT = -20
const MAX_HOPS = 60

/** [execution id, node] of every node: `12`, or `7:12` for node 12 in the subgraph that node 7 stands for. */
export function* everyNode(graph = app.rootGraph, prefix = '') {
  for (const node of graph?.nodes ?? []) {
    const id = `${prefix}${node.id}`
    yield [id, node]
    if (node.subgraph) yield* everyNode(node.subgraph, `${id}:`)
  }
}

/** The node of a locator: `12`, or `<id of a subgraph>:12`. */
export function nodeAt(locator) {
  const [id, graphId] = String(locator).split(':').reverse()
  const graph = graphId ? app.rootGraph?.subgraphs?.get(graphId) : app.rootGraph
  return graph?.getNodeById(id)
}

/** The nearest node of a class that `node` reads, directly or through others; null where there is none. */
export function upstream(node, comfyClass) {
  const seen = new Set([node])
  let layer = [node]
  for (let hop = 0; hop < MAX_HOPS && layer.length; hop += 1) {
    layer = layer.flatMap(sources).filter((source) => source && !seen.has(source) && seen.add(source))
    const found = layer.find((source) => source.comfyClass === comfyClass)
    if (found) return found
  }
  return null
}

/** The nodes whose outputs a node reads. */
function sources(node) {
  return (node.inputs ?? []).flatMap((input) => origins(node.graph, input.link))
}

function linkOf(graph, id) {
  return graph?.getLink?.(id) ?? graph?.links?.[id]
}

function origins(graph, linkId) {
  const link = linkId == null ? null : linkOf(graph, linkId)
  if (!link) return []
  if (Number(link.origin_id) === SUBGRAPH_INPUT) {
    return hosts(graph).flatMap((host) => origins(host.graph, host.inputs?.[link.origin_slot]?.link))
  }
  const source = graph.getNodeById(link.origin_id)
  if (!source?.subgraph) return source ? [source] : []
  return (source.subgraph.outputs?.[link.origin_slot]?.linkIds ?? []).flatMap((id) => origins(source.subgraph, id))
}

/** The first node of a class that reads output `slot` of a node, through reroutes and subgraphs; null without one. */
export function downstream(node, slot, comfyClass, hops = MAX_HOPS) {
  return alongLinks(node.graph, node.outputs?.[slot]?.links, comfyClass, hops)
}

function alongLinks(graph, linkIds, comfyClass, hops) {
  if (hops <= 0 || !graph) return null
  for (const id of linkIds ?? []) {
    const link = linkOf(graph, id)
    const found = link && atEnd(graph, link, comfyClass, hops - 1)
    if (found) return found
  }
  return null
}

function atEnd(graph, link, comfyClass, hops) {
  if (Number(link.target_id) === SUBGRAPH_OUTPUT) {
    for (const host of hosts(graph)) {
      const found = downstream(host, link.target_slot, comfyClass, hops)
      if (found) return found
    }
    return null
  }
  const node = graph.getNodeById(link.target_id)
  if (!node) return null
  if (node.comfyClass === comfyClass) return node
  if (node.subgraph) return alongLinks(node.subgraph, node.subgraph.inputs[link.target_slot]?.linkIds, comfyClass, hops)
  return node.type === 'Reroute' ? downstream(node, 0, comfyClass, hops) : null
}

/** The nodes that stand for a subgraph. */
function hosts(subgraph) {
  const root = app.rootGraph
  if (!root || subgraph === root) return []
  const standing = [...everyNode(root)].map(([, node]) => node).filter((node) => node.subgraph === subgraph)
  return [...new Set(standing)] // one for every place of the subgraph that it is in itself
}

/** The nodes that stand for the subgraph of `node`, for the one that they are in themselves, and so on outwards. */
export function hostsAround(node) {
  return hosts(node.graph).flatMap((host) => [host, ...hostsAround(host)])
}

/**
 * { node, widget } that holds the value of a widget: the node's own, or, where an input of its subgraph brings the
 * value, that of the node which stands for the subgraph. Null where there is none, or any other link brings the value,
 * or several nodes stand for the subgraph and may differ.
 */
export function widgetOf(node, name) {
  const linked = node?.inputs?.find((input) => input.widget?.name === name && input.link != null)
  if (!linked) {
    const widget = node?.widgets?.find((candidate) => candidate.name === name)
    return widget ? { node, widget } : null
  }
  const link = linkOf(node.graph, linked.link)
  if (Number(link?.origin_id) !== SUBGRAPH_INPUT) return null
  const standing = hosts(node.graph)
  const outer = standing[0]?.inputs?.[link.origin_slot]?.widget
  return standing.length === 1 && outer ? widgetOf(standing[0], outer.name) : null
}

/** The value of a widget; undefined where there is none, or a link brings the value. */
export function widgetValue(node, name) {
  return widgetOf(node, name)?.widget.value
}

/**
 * Give widgets new values, [{ node, name, value }], as if they had been typed; one step for undo. Where a widget outside
 * of the node's subgraph holds the value, both change: the one inside is not sent, but it is seen.
 */
export function setWidgets(changes) {
  const { canvas } = app
  canvas?.emitBeforeChange?.()
  for (const { node, name, value } of changes) {
    const own = node.widgets.find((candidate) => candidate.name === name)
    type(node, own, value)
    const holder = widgetOf(node, name)
    if (holder && holder.widget !== own) type(holder.node, holder.widget, value)
  }
  canvas?.emitAfterChange?.()
}

function type(node, widget, value) {
  const before = widget.value
  widget.value = value
  widget.callback?.(value, app.canvas, node)
  node.onWidgetChanged?.(widget.name, value, before, widget)
  node.setDirtyCanvas?.(true, true)
}
