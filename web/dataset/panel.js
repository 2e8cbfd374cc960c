// On the dataset node: upload by button or drop, and the contact sheet of the dataset that is chosen.

import { el, loadStyles } from '../lib/dom.js'
import { addDatasetWidget, createHostDrops } from './widget.js'
import { chooseDataset, hostsOfDataset, nodeChoice } from './graph.js'
import { createContents } from './contents.js'
import { createUploader } from './uploader.js'
import { readDataset, readRest } from './reader.js'

const WATCH_MS = 250

/** For a new dataset node. */
export function addDatasetPanel(node) {
  loadStyles('dataset.css', import.meta.url)
  const contents = createContents({ reload: () => load() })
  const uploader = createUploader({
    onUploaded(dataset) {
      chooseDataset(node, dataset.name)
      load()
    }
  })
  const element = el('section', { class: 'i4-panel i4-dataset' }, uploader.element, contents.element)
  addDatasetWidget(node, element, uploader)
  const hostDrops = createHostDrops(uploader)

  let shown = '' // what the panel shows, or is reading
  let seen = ''
  let reading = new AbortController()

  /** Read anew what is chosen; what was being read is given up. Resolves when it is there. */
  async function load() {
    const choice = nodeChoice(node)
    shown = JSON.stringify(choice)
    reading.abort()
    reading = new AbortController()
    const { signal } = reading
    if (!contents.begin(choice)) return
    const { dataset, wishes } = choice
    const onSheet = (id, sheet) => signal.aborted || contents.show(id, sheet, choice)
    try {
      const known = await readDataset(dataset, wishes, { signal, onSheet })
      readRest(known, wishes, { signal, onSheet }).catch(() => {}) // what is missing then are words on look-alikes
    } catch (error) {
      if (!signal.aborted) contents.fail(error.message)
    }
  }

  // Looking at a few values now and then, instead of at every way in which a graph can change them: typed, undone,
  // loaded, linked, or set on a node further down.
  const watch = setInterval(() => {
    if (!node.graph || document.hidden) return
    hostDrops.offer(hostsOfDataset(node))
    const now = JSON.stringify(nodeChoice(node))
    if (now !== shown && now === seen) load()
    seen = now
  }, WATCH_MS)

  const executed = node.onExecuted
  node.onExecuted = function (output) {
    executed?.call(this, output)
    load()
  }
  const removed = node.onRemoved
  node.onRemoved = function () {
    removed?.call(this)
    clearInterval(watch)
    hostDrops.offer([])
    reading.abort()
    uploader.stop()
  }
}
