// Open the subgraph blueprint in ComfyUI's own frontend, connect what it needs, run it, and print what came out, as
// JSON. Started by test_blueprint_in_browser.py. Input on stdin: { url, blueprint, vueNodes, loaders, save, values,
// inside, folder }: `loaders` is [[class, { widget: value }, input of the blueprint]], `save` a class that takes the
// LoRA, `values` what is typed into the blueprint's node, `inside` { class: { widget: value } } into nodes in it.
// Output: { unknown, broken, widgets, outputs, panel }: node types that are missing or red, the node's widgets, what the
// run gave, and how many files the save node lists.

import { join } from 'node:path'

import { finished, readInput, withFrontend } from './frontend.mjs'

const { url, blueprint, vueNodes, loaders, save, values, inside, folder } = await readInput()

/** Runs in the page. */
async function build({ blueprint, loaders, save, values, inside }) {
  const { app, LiteGraph } = window
  await app.loadGraphData(blueprint, true, true, 'blueprint')
  const { graph } = app
  const [host] = graph.nodes
  const type = (node, typed) => {
    for (const [name, value] of Object.entries(typed)) {
      const widget = node.widgets.find((candidate) => candidate.name === name)
      if (!widget) throw new Error(`${node.title} has no widget ${name}`)
      widget.value = value
    }
  }
  const add = (kind, x, y) => {
    const node = LiteGraph.createNode(kind)
    graph.add(node)
    node.pos = [x, y]
    return node
  }
  host.pos = [450, 100]
  loaders.forEach(([kind, typed, input], number) => {
    const loader = add(kind, 50, 100 + 160 * number)
    type(loader, typed)
    loader.connect(0, host, host.inputs.findIndex(({ name }) => name === input))
  })
  const saver = add(save, 900, 100)
  host.connect(host.outputs.findIndex(({ name }) => name === 'lora'), saver, 0)
  type(host, values)
  for (const node of host.subgraph.nodes) type(node, inside[node.type] ?? {})
  app.canvas.ds.scale = 1
  app.canvas.ds.offset = [60, 60]

  const nodes = [...graph.nodes, ...host.subgraph.nodes]
  const registered = LiteGraph.registered_node_types
  return {
    unknown: nodes.filter((node) => !registered[node.type]).map((node) => node.type),
    broken: nodes.filter((node) => node.has_errors).map((node) => node.type),
    widgets: host.widgets.map((widget) => widget.name)
  }
}

const told = await withFrontend(url, { 'Comfy.VueNodes.Enabled': vueNodes }, async (page) => {
  const opened = await page.evaluate(build, { blueprint, loaders, save, values, inside })
  await page.evaluate(() => window.app.queuePrompt(0, 1))
  const run = await finished(url)
  await page.waitForTimeout(1000)
  if (folder) await page.screenshot({ path: join(folder, `blueprint-${vueNodes ? 'vue' : 'canvas'}.png`) })
  return { ...opened, outputs: Object.values(run.outputs), panel: await page.locator('.i4-saved li').count() }
})
process.stdout.write(JSON.stringify(told))
