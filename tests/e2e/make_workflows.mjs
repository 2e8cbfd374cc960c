// Draw the example workflows: API graph + layout -> UI workflow and picture, both by ComfyUI's own frontend.
// Started by make_workflows.py, whose header says how. Input on stdin:
// { url, output: folder, graphs: { name: API graph }, models: { loader: [{ name, url, directory }] }, packId }.

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'

import { BARE_CANVAS, graphBounds, readInput, takePicture, withFrontend } from './frontend.mjs'
import { LAYOUTS } from './workflow_layouts.mjs'

// The view that opens: the whole graph between the bars of a 1600x900 window.
const WINDOW = { x: 80, y: 110, width: 1480, height: 740, maxScale: 0.9 }

/** Runs in the page: build the graph and put everything in its place. */
async function build({ api, layout, models, packId }) {
  const unknown = Object.values(api).filter((node) => !window.LiteGraph.registered_node_types[node.class_type])
  if (unknown.length) throw new Error(`the server has no ${unknown.map((node) => node.class_type).join(', ')}`)
  await window.app.loadApiJson(api, layout.file)
  const graph = window.app.graph
  graph.id = layout.id

  for (const node of graph.nodes) {
    const place = layout.nodes[node.id]
    if (!place) throw new Error(`${layout.file}: node ${node.id} (${node.type}) has no place`)
    const [x, y, width, height] = place.at
    node.pos = [x, y]
    node.setSize([width, height ?? node.computeSize()[1]])
    if (place.title) node.title = place.title
    if (place.bypassed) node.mode = 4
    const ours = node.type.startsWith('Ideogram4') && node.type !== 'Ideogram4Scheduler'
    node.properties.cnr_id = ours ? packId : 'comfy-core'
    const named = models[node.type]?.filter(({ name }) => node.widgets.some((widget) => widget.value === name))
    if (named) node.properties.models = named
  }

  for (const { at, text } of layout.notes) {
    const note = window.LiteGraph.createNode('MarkdownNote')
    note.title = 'Read me'
    note.pos = at.slice(0, 2)
    graph.add(note)
    note.setSize(at.slice(2))
    note.widgets[0].value = text
  }

  for (const { title, around, color } of layout.groups) {
    const inside = graph.nodes.filter((node) => around.includes(String(node.id)))
    const left = Math.min(...inside.map((node) => node.pos[0])) - 20
    const top = Math.min(...inside.map((node) => node.pos[1])) - 80 // below it: two title bars
    const right = Math.max(...inside.map((node) => node.pos[0] + node.size[0])) + 20
    const bottom = Math.max(...inside.map((node) => node.pos[1] + node.size[1])) + 20
    const group = new window.LiteGraph.LGraphGroup(title)
    group.color = color
    group.pos = [left, top]
    group.size = [right - left, bottom - top]
    graph.add(group)
  }
}

/** Runs in the page. */
function serialise({ bounds, view }) {
  const workflow = window.app.graph.serialize({ sortNodes: true })
  const scale = Math.min(view.maxScale, view.width / bounds.width, view.height / bounds.height)
  const rounded = Math.floor(scale * 100) / 100
  const offset = [Math.round(view.x / rounded - bounds.left), Math.round(view.y / rounded - bounds.top)]
  workflow.extra = { ds: { scale: rounded, offset } }
  return workflow
}

const { url, output, graphs, models, packId } = await readInput()
await withFrontend(url, BARE_CANVAS, async (page) => {
  for (const layout of LAYOUTS) {
    await page.evaluate(build, { api: graphs[layout.api], layout, models, packId })
    const bounds = await page.evaluate(graphBounds)
    const workflow = await page.evaluate(serialise, { bounds, view: WINDOW })
    await writeFile(join(output, `${layout.file}.json`), `${JSON.stringify(workflow, null, 2)}\n`)
    await takePicture(page, join(output, `${layout.file}.jpg`))
  }
})
