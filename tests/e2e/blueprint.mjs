// Open the subgraph blueprint in ComfyUI's own frontend, connect what it needs, drop datasets on it from outside and
// inside, run it, and print what came out, as JSON. Started by test_blueprint_in_browser.py. Input on stdin:
// { url, blueprint, vueNodes, loaders, save, values, drops, folder }: `loaders` is [[class, { widget: value }, input of
// the blueprint]], `save` a class that takes the LoRA, `values` what is typed into the blueprint's node, `drops`
// { outside, broken, inside } the paths of zips, the last of which is trained on.
// Output: { unknown, broken, widgets, outside, refused, shared, inside, outputs, panel, errors }: node types that are
// missing or red, the node's widgets, what each drop led to, what the run gave, and how many files the save node lists.

import { join } from 'node:path'

import { dropFiles } from './drops.mjs'
import { finished, readInput, withFrontend } from './frontend.mjs'

const { url, blueprint, vueNodes, loaders, save, values, drops, folder } = await readInput()

/** Runs in the page. */
async function build({ blueprint, loaders, save, values }) {
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

/** Runs in the page: the dataset that is sent, that the node outside shows and lists, and what the panel inside says. */
async function look() {
  const { app } = window
  const host = app.rootGraph.nodes.find(({ subgraph }) => subgraph)
  const widget = host.widgets.find(({ name }) => name === 'dataset')
  const { output } = await app.graphToPrompt()
  const summary = document.querySelector('.i4-dataset .i4-summary')
  return {
    sent: Object.values(output).find(({ class_type }) => class_type === 'Ideogram4LoadDataset').inputs.dataset,
    outside: widget.value,
    listed: widget.options.values.includes(widget.value),
    summary: summary?.offsetParent ? summary.textContent : '',
    tiles: document.querySelectorAll('.i4-dataset .i4-tile').length
  }
}

/** Look when `wanted` holds of what is seen. */
async function lookWhen(page, what, wanted) {
  let seen = null
  for (let tries = 0; tries < 150; tries += 1) {
    seen = await page.evaluate(look)
    if (wanted(seen)) return seen
    await page.waitForTimeout(200)
  }
  throw new Error(`${what} did not come about: ${JSON.stringify(seen)}`)
}

/** Runs in the page: show a graph, and give the middle of a node in it, in pixels. */
async function show({ inside, kind }) {
  const { app } = window
  const host = app.rootGraph.nodes.find(({ subgraph }) => subgraph)
  if (inside) app.canvas.openSubgraph(host.subgraph, host)
  else app.canvas.setGraph(app.rootGraph)
  await new Promise((done) => setTimeout(done, 1000)) // the view moves to where it was
  app.canvas.ds.scale = 0.8
  app.canvas.ds.offset = inside ? [420, 120] : [60, 60]
  app.canvas.setDirty(true, true)
  await new Promise((done) => setTimeout(done, 500))
  const node = kind ? app.canvas.graph.nodes.find(({ type }) => type === kind) : host
  const { scale, offset } = app.canvas.ds
  const { left, top } = app.canvas.canvas.getBoundingClientRect()
  const at = (place, axis) => (place + offset[axis]) * scale
  return {
    title: { x: left + at(node.pos[0] + 120, 0), y: top + at(node.pos[1] - 12, 1) },
    middle: { x: left + at(node.pos[0] + node.size[0] / 2, 0), y: top + at(node.pos[1] + node.size[1] / 2, 1) }
  }
}

const told = await withFrontend(url, { 'Comfy.VueNodes.Enabled': vueNodes }, async (page) => {
  const errors = []
  page.on('pageerror', (error) => errors.push(error.message))
  const picture = (name) =>
    folder && page.screenshot({ path: join(folder, `blueprint-${vueNodes ? 'vue' : 'canvas'}-${name}.png`) })
  const opened = await page.evaluate(build, { blueprint, loaders, save, values })
  const chosen = (path) => (seen) => seen.sent === path.split('/').at(-1)
  const sheet = (path) => (seen) => chosen(path)(seen) && seen.summary && !/looking for|so far/.test(seen.summary)

  const host = await page.evaluate(show, {})
  await page.waitForTimeout(1000) // the panel inside looks now and then for what stands for it
  await dropFiles(page, host.title, [drops.outside])
  const outside = await lookWhen(page, 'a drop outside', chosen(drops.outside))
  await picture('outside')
  await dropFiles(page, host.title, [drops.broken])
  const toast = page.locator('.p-toast-message').filter({ hasText: 'broken' })
  await toast.waitFor()
  const refused = { said: await toast.innerText(), ...(await page.evaluate(look)) }
  await picture('refused')

  const load = await page.evaluate(show, { inside: true, kind: 'Ideogram4LoadDataset' })
  const shared = await lookWhen(page, 'the sheet', sheet(drops.outside))
  await dropFiles(page, load.middle, [drops.inside])
  const inside = await lookWhen(page, 'a drop inside', sheet(drops.inside))
  await picture('inside')

  await page.evaluate(show, {})
  await page.evaluate(() => window.app.queuePrompt(0, 1))
  const run = await finished(url)
  await page.waitForTimeout(1000)
  await picture('trained')
  const panel = await page.locator('.i4-saved li').count()
  return { ...opened, outside, refused, shared, inside, outputs: Object.values(run.outputs), panel, errors }
})
process.stdout.write(JSON.stringify(told))
