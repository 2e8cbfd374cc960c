// The panel on the train node: what a run is doing, live, rebuilt from its journal.

import { api } from '../../../scripts/api.js'

import { routeUrl } from '../lib/api.js'
import { el, loadStyles } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'
import { runButtons } from './buttons.js'
import { lossChart } from './chart.js'
import { runChooser } from './chooser.js'
import { watchRun } from './feed.js'
import { executionIds, isOf } from './origin.js'
import { previewGrid } from './previews.js'
import { progressView } from './progress.js'
import { attentionToasts } from './toasts.js'

const TEXT = await translated('run/panel', {
  label: 'Training run',
  files: 'Files of the run:'
})
const EVENT = 'ideogram4_lora_trainer.run'
const FILES_SHOWN = ['loss.png', 'loss.csv']
const MIN_HEIGHT = 320
const DEFAULT_SIZE = [460, 960]

/** Add the panel to a new train node; `above` is an element to be shown in it before anything else. */
export function addRunPanel(node, above) {
  loadStyles('run.css', import.meta.url)
  const view = panelView(node, above)
  const widget = node.addDOMWidget('run', 'ideogram4_run', view.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => MIN_HEIGHT
  })
  widget.serialize = false // what is watched is part of no workflow
  node.setSize?.([Math.max(node.size[0], DEFAULT_SIZE[0]), Math.max(node.size[1], DEFAULT_SIZE[1])])
  follow(node, 'onAdded', view.start)
  follow(node, 'onRemoved', view.stop)
}

/** Call `action` too when ComfyUI tells this node something. */
function follow(node, name, action) {
  const before = node[name]
  node[name] = function (...values) {
    const answer = before?.apply(this, values)
    action()
    return answer
  }
}

function panelView(node, above) {
  let feed = null
  /** ComfyUI has come to this node, and its run has said nothing yet. */
  let preparing = false
  /** Why the node failed before there was a run: that is in no journal. */
  let problem = ''
  let started = false
  const chooser = runChooser(node, watch)
  const progress = progressView(chooser.element)
  const buttons = runButtons()
  const chart = lossChart()
  const previews = previewGrid()
  const files = el('p', { class: 'i4-files', hidden: true })
  const tell = attentionToasts()
  const panel = el(
    'section',
    { class: 'i4-panel i4-run', 'aria-label': TEXT.label },
    above,
    progress.element,
    buttons.element,
    chart.element,
    files,
    previews.element
  )
  // The frame has no height of its own, so that the node keeps its size and the panel scrolls in it.
  const element = el('div', { class: 'i4-run-frame' }, panel)
  // The graph's own keys (Delete, say) are not for what has the focus in here.
  element.addEventListener('keydown', (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation()
  })
  element.addEventListener('pointerenter', () => chooser.refresh())

  const listeners = {
    [EVENT]: ({ detail }) => {
      if (detail.run && isOf(node, detail)) {
        setPreparing(false)
        chooser.own(detail.run)
      }
      if (!detail.run || detail.run !== feed?.run) return
      if (detail.note) feed.told.push(detail.note)
      feed.look()
    },
    execution_error: ({ detail }) => {
      // A run that has begun tells in its journal why it ended.
      const begun = feed?.active && feed.state.started
      if (begun || !executionIds(node).includes(String(detail?.node_id))) return
      setPreparing(false, String(detail.exception_message ?? ''))
    },
    execution_cached: ({ detail }) => {
      if (detail?.nodes?.some((id) => executionIds(node).includes(String(id)))) progress.unchanged(true)
    },
    executing: ({ detail }) => setPreparing(executionIds(node).includes(String(detail?.node ?? detail))),
    execution_start: () => {
      progress.unchanged(false)
      setPreparing(false, '')
    },
    reconnected: () => {
      feed?.look()
      chooser.refresh()
    }
  }

  function setPreparing(value, why = value ? '' : problem) {
    if (value === preparing && why === problem) return
    ;[preparing, problem] = [value, why]
    show()
  }

  /** Watch the run that is chosen now. */
  function watch() {
    if (!started || feed?.run === chooser.run || (!feed && !chooser.run)) return
    feed?.close()
    feed = chooser.run ? watchRun(chooser.run, show) : null
    show()
  }

  function show() {
    if (!started) return
    progress.show(feed, preparing && !feed?.active, feed?.active ? '' : problem)
    buttons.show(feed)
    if (feed) chart.show(feed.state)
    chart.element.hidden = !feed?.state.started
    previews.show(feed?.run ?? '', feed?.state ?? null)
    showFiles()
    tell(feed)
  }

  function showFiles() {
    const there = FILES_SHOWN.filter((name) => feed?.files.includes(name))
    files.hidden = !there.length
    if (!there.length) return
    // With the time of the newest line, because a browser may keep what it was given before.
    const address = (name) => routeUrl(`/runs/${encodeURIComponent(feed.run)}/files/${name}?t=${feed.state.time}`)
    const key = there.join()
    if (files.dataset.key !== key) {
      files.dataset.key = key
      const links = there.map((name) => el('a', { target: '_blank', rel: 'noopener' }, name))
      files.replaceChildren(TEXT.files, ...links.flatMap((link) => [' ', link]))
    }
    for (const link of files.querySelectorAll('a')) link.href = address(link.textContent)
  }

  return {
    element,
    start() {
      if (started) return
      started = true
      for (const [name, listener] of Object.entries(listeners)) api.addEventListener(name, listener)
      show()
      // The graph that is being opened gets its id, and its nodes theirs, after they were added.
      setTimeout(() => started && chooser.refresh())
    },
    stop() {
      started = false
      for (const [name, listener] of Object.entries(listeners)) api.removeEventListener(name, listener)
      feed?.close()
      feed = null
      chooser.release()
    }
  }
}
