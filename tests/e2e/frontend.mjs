// ComfyUI's own frontend in headless Chromium, for the scripts beside this file.
//
// CHROMIUM is the browser's path; PLAYWRIGHT_CORE the folder that `npm install playwright-core` was run in.

import { writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'

const READY_TIMEOUT_MS = 60_000
const RUN_TIMEOUT_MS = 420_000
const PICTURE_WIDTH = 1600
const PICTURE_MARGIN = 30
const MAX_PICTURE_BYTES = 100_000

/** Settings for pictures: nothing but the graph. */
export const BARE_CANVAS = {
  'Comfy.Graph.CanvasInfo': false,
  'Comfy.Graph.CanvasMenu': false,
  'Comfy.Minimap.Visible': false,
  'Comfy.NodeBadge.NodeSourceBadgeMode': 'None',
  'Comfy.NodeBadge.NodeIdBadgeMode': 'None',
  'Comfy.UseNewMenu': 'Disabled'
}

/** What is read from stdin: one JSON document. */
export async function readInput() {
  let text = ''
  for await (const chunk of process.stdin) text += chunk
  return JSON.parse(text)
}

/** Run `use(page)` on a page that shows the frontend of the server at `url`, ready to load graphs. */
export async function withFrontend(url, settings, use) {
  const { chromium } = createRequire(`${process.env.PLAYWRIGHT_CORE}/`)('playwright-core')
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage']
  })
  try {
    // The tutorial would cover the graph of a first visit.
    await post(`${url}/api/settings`, { 'Comfy.TutorialCompleted': true, ...settings })
    const page = await browser.newPage({ viewport: { width: PICTURE_WIDTH, height: 900 } })
    await page.goto(url)
    await page.waitForFunction(
      () => window.app?.graph && Object.keys(window.LiteGraph?.registered_node_types ?? {}).length > 100,
      null,
      { timeout: READY_TIMEOUT_MS }
    )
    return await use(page)
  } finally {
    await browser.close()
  }
}

/** Wait until the server has a finished run, and return its record. Throws when it failed or takes too long. */
export async function finished(url, timeoutMs = RUN_TIMEOUT_MS) {
  const deadline = Date.now() + timeoutMs
  while (Date.now() < deadline) {
    const [run] = Object.values(await (await fetch(`${url}/history?max_items=1`)).json())
    if (run?.status.status_str === 'error') throw new Error(JSON.stringify(run.status.messages.at(-1)))
    if (run) return run
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
  throw new Error('the run did not finish')
}

/** A JPEG of the whole open graph, as wide as the page; needs the settings BARE_CANVAS. */
export async function takePicture(page, path) {
  const bounds = await page.evaluate(graphBounds)
  const scale = (PICTURE_WIDTH - 2 * PICTURE_MARGIN) / bounds.width
  await page.setViewportSize({
    width: PICTURE_WIDTH,
    height: Math.round(bounds.height * scale) + 2 * PICTURE_MARGIN
  })
  await page.addStyleTag({ content: '.comfy-menu, .p-toast, .comfyui-menu { display: none !important }' })
  await page.evaluate(look, { bounds, scale, x: PICTURE_MARGIN, y: PICTURE_MARGIN })
  await page.waitForTimeout(1500) // the canvas and its text boxes follow on later frames
  for (let quality = 90; quality >= 40; quality -= 10) {
    const picture = await page.screenshot({ type: 'jpeg', quality })
    if (picture.length < MAX_PICTURE_BYTES) return writeFile(path, picture)
  }
  throw new Error(`${path}: more than ${MAX_PICTURE_BYTES} bytes at any quality`)
}

/** Runs in the page: the rectangle around all nodes and groups, in the graph's own units. */
export function graphBounds() {
  const title = window.LiteGraph.NODE_TITLE_HEIGHT
  const { nodes, groups } = window.app.graph
  const boxes = [
    ...nodes.map(({ pos, size }) => ({ left: pos[0], top: pos[1] - title, right: pos[0] + size[0], bottom: pos[1] + size[1] })),
    ...groups.map(({ pos, size }) => ({ left: pos[0], top: pos[1], right: pos[0] + size[0], bottom: pos[1] + size[1] }))
  ]
  const left = Math.min(...boxes.map((box) => box.left))
  const top = Math.min(...boxes.map((box) => box.top))
  return {
    left,
    top,
    width: Math.max(...boxes.map((box) => box.right)) - left,
    height: Math.max(...boxes.map((box) => box.bottom)) - top
  }
}

/** Runs in the page: show `bounds` with its corner `x`, `y` pixels from the page's. */
function look({ bounds, scale, x, y }) {
  const { canvas } = window.app
  canvas.deselectAll()
  canvas.ds.scale = scale
  canvas.ds.offset = [x / scale - bounds.left, y / scale - bounds.top]
  canvas.setDirty(true, true)
}

async function post(url, body) {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body)
  })
  if (!response.ok) throw new Error(`POST ${url}: HTTP ${response.status}`)
}
