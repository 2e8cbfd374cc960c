// Make the subgraph blueprint from the API graph of the training example, by ComfyUI's own frontend. Started by
// make_workflows.py. Input on stdin: { url, graph: API graph, blueprint, packId }, where `blueprint` has { file: path,
// id, title, description, category, aliases, nodes: ids that go inside, exposed: [[node id, input]] beside those that
// have links }.

import { writeFile } from 'node:fs/promises'

import { BARE_CANVAS, readInput, withFrontend } from './frontend.mjs'

/** Runs in the page. */
async function build({ api, blueprint, packId }) {
  await window.app.loadApiJson(api, blueprint.title)
  const { graph } = window.app
  const inside = graph.nodes.filter(({ id }) => blueprint.nodes.includes(String(id)))
  for (const node of inside) node.properties.cnr_id = packId
  // x, y, width, and the height where a panel takes what it is given.
  const place = { 4: [0, 0, 440, 660], 5: [500, 0, 280], 6: [840, 200, 280], 7: [1180, 0, 460, 1000] }
  for (const node of inside) {
    const [x, y, width, height] = place[node.id]
    node.pos = [x, y]
    node.setSize([width, height ?? node.computeSize()[1]])
  }
  const { subgraph, node: host } = graph.convertToSubgraph(new Set(inside))
  // What the frontend made an input of by itself would come before everything else.
  for (const input of [...subgraph.inputs]) if (input.name === 'seed') subgraph.removeInput(input)
  for (const [id, name] of blueprint.exposed) {
    const node = subgraph.getNodeById(Number(id))
    const slot = node.inputs.find((candidate) => candidate.name === name)
    const input = subgraph.addInput(name, String(slot.type))
    if (!input.connect(slot, node)) throw new Error(`${name} cannot be an input of the subgraph`)
  }
  // Beside the nodes, so that no wire goes back: the frontend puts both where the middle of the nodes was.
  subgraph.inputNode.pos = [-240, 0]
  subgraph.outputNode.pos = [1700, 0]
  subgraph.name = blueprint.title
  host.title = blueprint.title
  host.pos = [0, 0]
  host.setSize([360, host.computeSize()[1]])
  const { nodes, subgraphs } = window.app.canvas._serializeItems([host])
  if (nodes.length !== 1 || subgraphs.length !== 1) throw new Error('expected one node and one subgraph')
  const [outer] = nodes
  for (const slot of outer.inputs) slot.link = null
  for (const slot of outer.outputs) slot.links = []
  Object.assign(subgraphs[0], { description: blueprint.description, category: blueprint.category })
  return {
    found: outer.type,
    json: {
      revision: 0,
      last_node_id: outer.id,
      last_link_id: 0,
      nodes,
      links: [],
      version: 0.4,
      definitions: { subgraphs },
      extra: { BlueprintSearchAliases: blueprint.aliases }
    }
  }
}

const { url, graph, blueprint, packId } = await readInput()
await withFrontend(url, BARE_CANVAS, async (page) => {
  const { found, json } = await page.evaluate(build, { api: graph, blueprint, packId })
  // The frontend gives every new subgraph an id of its own; making it again must not change the file.
  await writeFile(blueprint.file, `${JSON.stringify(json, null, 2)}\n`.replaceAll(found, blueprint.id))
})
