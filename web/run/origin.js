// Which runs belong to a node of the open graph.

import { app } from '../../../scripts/app.js'
import { everyNode } from '../lib/nodes.js'

/** The id of the open workflow, '' where it has none. */
export function workflowId() {
  return String(app.rootGraph?.id ?? app.graph?.id ?? '')
}

/**
 * The ids under which the server runs a node: `7`, or `3:7` inside the subgraph node 3. A subgraph that is used several
 * times gives a node several.
 */
export function executionIds(node) {
  return [...everyNode()].filter(([, other]) => other === node).map(([id]) => id)
}

/** Whether a run, or a message about one, comes from this node in this workflow. */
export function isOf(node, { node: id, workflow }) {
  return Boolean(workflow) && workflow === workflowId() && executionIds(node).includes(String(id))
}
