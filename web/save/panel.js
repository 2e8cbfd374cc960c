// On the save node after a run: the files that were written, what each is for, its size, and a link to it.

import { api } from '../../../scripts/api.js'
import { app } from '../../../scripts/app.js'
import { el, formatBytes, loadStyles } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'
import { everyNode, nodeAt } from '../lib/nodes.js'
import { fileUrl, folderOf, purposeOf } from './files.js'

const TEXT = await translated('save/panel', {
  label: 'Saved files',
  folder: (path) => `In ${path}`,
  link: (name) => `Download ${name}`,
  purpose: {
    comfy: 'for ComfyUI and diffusers',
    fal: 'for fal and diffusers',
    diffusers: 'for diffusers, with q, k and v apart',
    config: 'settings and data it was made with'
  }
})
const COMFY_CLASS = 'Ideogram4SaveLoRA'
const WIDGET = 'saved_files'
const ROW_PX = 40
const REST_PX = 44

/** Node to its list, once it has one. */
const lists = new WeakMap()

/** Show the files of every result that the node gets. */
export function addSavedFiles(node) {
  const before = node.onExecuted
  node.onExecuted = function (output) {
    before?.call(this, output)
    showFiles(node, output?.files)
  }
}

/** For ComfyUI's `onNodeOutputsUpdated`: results that the page has kept, when a workflow is opened again. */
export function showKeptFiles(outputs) {
  for (const [locator, output] of Object.entries(outputs ?? {})) {
    const node = nodeAt(locator)
    if (node?.comfyClass === COMFY_CLASS) showFiles(node, output?.files)
  }
}

/** After a reload: the files of this workflow's last run, as far as the server still knows it. */
export async function showFilesOfLastRun() {
  const graph = app.rootGraph
  if (![...everyNode(graph)].some(([, node]) => waits(node))) return
  const outputs = await outputsOfLastRun(graph.id)
  if (app.rootGraph.id !== graph.id) return
  for (const [id, node] of everyNode(app.rootGraph)) {
    if (waits(node)) showFiles(node, outputs[id]?.files)
  }
}

function waits(node) {
  return node.comfyClass === COMFY_CLASS && !lists.has(node)
}

// The list is a comfort: where the server cannot be asked, there is none.
async function outputsOfLastRun(workflowId) {
  try {
    const query = new URLSearchParams({ workflow_id: workflowId, status: 'completed', limit: '1' })
    const { jobs } = await (await api.fetchApi(`/jobs?${query}`)).json()
    if (!jobs?.length) return {}
    return (await (await api.fetchApi(`/jobs/${jobs[0].id}`)).json()).outputs ?? {}
  } catch {
    return {}
  }
}

function showFiles(node, files) {
  if (!Array.isArray(files) || !files.length) return
  loadStyles('panel.css', import.meta.url)
  if (!lists.has(node)) lists.set(node, addWidget(node))
  const { element, count } = lists.get(node)
  count.value = files.length
  element.replaceChildren(
    el('p', { class: 'i4-quiet' }, TEXT.folder(folderOf(files))),
    el('ul', { 'aria-label': TEXT.label }, files.map(row))
  )
  node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])])
  node.setDirtyCanvas(true, true)
}

// Added with the first result, so that a node without one looks as it always did.
function addWidget(node) {
  const element = el('section', { class: 'i4-panel i4-saved', 'aria-label': TEXT.label })
  const count = { value: 1 }
  const widget = node.addDOMWidget(WIDGET, 'i4-saved-files', element, {
    serialize: false,
    getMinHeight: () => REST_PX + ROW_PX * count.value
  })
  widget.serialize = false // the option is about prompts, this about workflows
  return { element, count }
}

function row(file) {
  const title = TEXT.link(file.filename)
  return el(
    'li',
    {},
    el('a', { href: api.apiURL(fileUrl(file)), download: file.filename, title, 'aria-label': title }, file.filename),
    el('span', { class: 'i4-saved-size' }, Number.isFinite(file.bytes) ? formatBytes(file.bytes) : ''),
    el('span', { class: 'i4-quiet i4-saved-purpose' }, TEXT.purpose[purposeOf(file.filename)])
  )
}
