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

function origins(graph, linkId) {
  const link = linkId == null ? null : (graph?.getLink?.(linkId) ?? graph?.links?.[linkId])
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
    const link = graph.getLink?.(id) ?? graph.links?.[id]
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
  const graphs = [root, ...(root.subgraphs?.values() ?? [])]
  return graphs.flatMap((graph) => graph.nodes.filter((node) => node.subgraph === subgraph))
}

/** The value of a widget; undefined where there is none, or a link brings the value. */
export function widgetValue(node, name) {
  if (node?.inputs?.some((input) => input.widget?.name === name && input.link != null)) return undefined
  return node?.widgets?.find((widget) => widget.name === name)?.value
}

/** Give widgets new values, [{ node, name, value }], as if they had been typed; one step for undo. */
export function setWidgets(changes) {
  const { canvas } = app
  canvas?.emitBeforeChange?.()
  for (const { node, name, value } of changes) {
    const widget = node.widgets.find((candidate) => candidate.name === name)
    const before = widget.value
    widget.value = value
    widget.callback?.(value, canvas, node)
    node.onWidgetChanged?.(name, value, before, widget)
    node.setDirtyCanvas?.(true, true)
  }
  canvas?.emitAfterChange?.()
}
