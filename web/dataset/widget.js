// The place of the panel on the node: its size, and what the mouse, the keys and drops do there.

import { app } from '../../../scripts/app.js'
import { bringsFiles, droppedFiles } from './files.js'

const NAME = 'dataset_sheet'
const MIN_HEIGHT_PX = 320
const CAPTION_BOX_PX = 90
const NEW_NODE_PX = [440, 660]
const KEYS = ['Enter', ' ', 'Delete', 'Backspace', 'ArrowUp', 'ArrowDown', 'ArrowLeft', 'ArrowRight', 'Home', 'End',
  'PageUp', 'PageDown']

/** Put `element` on `node` as a widget that holds no value, and let files be dropped on both. */
export function addDatasetWidget(node, element, uploader) {
  const widget = node.addDOMWidget(NAME, 'i4-dataset-sheet', element, {
    serialize: false,
    getMinHeight: () => MIN_HEIGHT_PX,
    margin: 10
  })
  widget.serialize = false // in the workflow; the option above is for prompts
  // The sheet gets the room on the node, not an empty text box.
  const captions = node.widgets.find((other) => other.name === 'default_caption')
  if (captions) captions.options.getMaxHeight = () => CAPTION_BOX_PX
  node.setSize([Math.max(node.size[0], NEW_NODE_PX[0]), Math.max(node.size[1], NEW_NODE_PX[1])])
  keepWheel(element)
  element.addEventListener('keydown', (event) => {
    // On the canvas these delete or move the node.
    if (KEYS.includes(event.key) && !event.ctrlKey && !event.metaKey) event.stopPropagation()
  })
  takeDrops(node, element, uploader)
}

/** Scroll the panel, not the canvas. The canvas of Nodes 2.0 listens on the way down, so this listens before it. */
function keepWheel(element) {
  const onWheel = (event) => {
    if (!element.contains(event.target) || event.ctrlKey || event.metaKey) return
    const scroller = event.target.closest('.i4-scroll')
    if (scroller && scroller.scrollHeight > scroller.clientHeight) event.stopPropagation()
  }
  // While the mouse is over the panel, and no longer.
  const early = { capture: true, passive: true }
  element.addEventListener('pointerenter', () => window.addEventListener('wheel', onWheel, early))
  element.addEventListener('pointerleave', () => window.removeEventListener('wheel', onWheel, early))
}

/** What the canvas asks of a node, and in Nodes 2.0 of whatever lies on it. */
function dropHandlers(take) {
  return {
    onDragOver: bringsFiles,
    onDragDrop(event) {
      if (!bringsFiles(event)) return false
      take(event)
      return true
    }
  }
}

/**
 * Files dropped on nodes that stand for the dataset node's subgraph: `offer(hosts)` says which these are now. One that
 * has handlers of its own keeps them.
 */
export function createHostDrops(uploader) {
  const given = new Map() // host: its handlers

  function offer(hosts) {
    for (const host of given.keys()) if (!hosts.includes(host)) takeBack(host)
    for (const host of hosts) {
      if (host.onDragOver || host.onDragDrop) continue
      const handlers = dropHandlers((event) => take(host, event))
      given.set(host, handlers)
      Object.assign(host, handlers)
    }
  }

  function takeBack(host) {
    for (const [name, handler] of Object.entries(given.get(host))) if (host[name] === handler) delete host[name]
    given.delete(host)
  }

  /** The panel cannot be seen from outside of the subgraph; what it says is told in a toast. */
  async function take(host, event) {
    await uploader.start(droppedFiles(event.dataTransfer))
    const alert = uploader.element.querySelector('.i4-alert')
    if (alert.hidden) return
    const severity = alert.classList.contains('i4-bad') ? 'error' : 'warn'
    const detail = alert.firstElementChild.textContent
    app.extensionManager?.toast?.add({ severity, summary: host.title, detail })
  }

  return { offer }
}

function takeDrops(node, element, uploader) {
  const take = (event) => uploader.start(droppedFiles(event.dataTransfer))
  Object.assign(node, dropHandlers(take))
  const lit = (on) => element.classList.toggle('i4-dropping', on)
  element.addEventListener('dragover', (event) => {
    if (!bringsFiles(event)) return
    event.preventDefault()
    event.dataTransfer.dropEffect = 'copy'
    lit(true)
  })
  element.addEventListener('dragleave', (event) => {
    if (!element.contains(event.relatedTarget)) lit(false)
  })
  element.addEventListener('drop', (event) => {
    lit(false)
    // In Nodes 2.0 the drop goes on to the node itself; in the canvas it would be opened as a workflow.
    if (!bringsFiles(event) || element.closest('[data-node-id]')) return
    event.preventDefault()
    event.stopPropagation()
    take(event)
  })
}
