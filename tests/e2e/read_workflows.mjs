// Open workflows in ComfyUI's own frontend and print what it makes of them, as JSON. Started by
// test_workflows_in_browser.py. Input on stdin: { url, workflows: { name: workflow }, vueNodes, typed }, where
// `typed` is a list of { workflow, type, widget, text }: text to put into that widget before the graph is read.
// Output: { name: { unknown, broken, count, prompt } }.

import { readInput, withFrontend } from './frontend.mjs'

/** Runs in the page. */
async function open({ name, workflow, typed }) {
  await window.app.loadGraphData(workflow, true, true, name)
  const { nodes } = window.app.graph
  for (const { type, widget, text } of typed) {
    nodes.find((node) => node.type === type).widgets.find((candidate) => candidate.name === widget).value = text
  }
  const registered = window.LiteGraph.registered_node_types
  return {
    unknown: nodes.filter((node) => !registered[node.type]).map((node) => node.type),
    // A node that the frontend could not build keeps its data and is drawn in red.
    broken: nodes.filter((node) => node.has_errors && registered[node.type]).map((node) => node.type),
    count: nodes.length,
    prompt: (await window.app.graphToPrompt()).output
  }
}

const { url, workflows, typed = [], vueNodes = false } = await readInput()
const settings = { 'Comfy.VueNodes.Enabled': vueNodes }
const opened = await withFrontend(url, settings, async (page) => {
  const results = {}
  for (const [name, workflow] of Object.entries(workflows)) {
    results[name] = await page.evaluate(open, { name, workflow, typed: typed.filter((entry) => entry.workflow === name) })
  }
  return results
})
process.stdout.write(JSON.stringify(opened))
