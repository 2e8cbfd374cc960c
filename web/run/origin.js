// Which runs belong to a node of the open graph.

import { app } from '../../../scripts/app.js'

const MAX_DEPTH = 10

/** The id of the open workflow, '' where it has none. */
export function workflowId() {
  return String(app.rootGraph?.id ?? app.graph?.id ?? '')
}

/**
 * The ids under which the server runs a node: `7`, or `3:7` inside the subgraph node 3. A subgraph that is used several
 * times gives a node several.
 */
export function executionIds(node) {
  const root = app.rootGraph ?? app.graph
  if (!root || !node.graph) return []
  const found = []
  const visit = (graph, prefix, depth) => {
    if (graph === node.graph) found.push(`${prefix}${node.id}`)
    if (depth > MAX_DEPTH) return
    for (const other of graph.nodes ?? []) {
      if (other.subgraph) visit(other.subgraph, `${prefix}${other.id}:`, depth + 1)
    }
  }
  visit(root, '', 0)
  return found
}

/** Whether a run, or a message about one, comes from this node in this workflow. */
export function isOf(node, { node: id, workflow }) {
  return Boolean(workflow) && workflow === workflowId() && executionIds(node).includes(String(id))
}
