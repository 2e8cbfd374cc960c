// Train in ComfyUI's own frontend with the panel of the train node in sight, and print what it showed, as JSON.
// Started by test_run_in_browser.py. Input on stdin: { url, workflow, vueNodes, folder, settings }, where `folder`, if
// given, gets pictures. Output: what was seen in each stage; see the end.
//
// A page is opened, the run started; a checkpoint is asked for; the page is reloaded while it trains; a second tab is
// opened and stops the run there, and both tabs are looked at again.

import { join } from 'node:path'

import { finished, readInput, withFrontend } from './frontend.mjs'

const WAIT_MS = 120_000
const { url, workflow, vueNodes, folder, settings = {} } = await readInput()

/** Runs in the page: what the panel says and shows. */
function read() {
  const text = (selector) => document.querySelector(`.i4-run ${selector}`)?.innerText ?? ''
  const path = document.querySelector('.i4-run .i4-chart-picture path.i4-line-smooth')?.getAttribute('d') ?? ''
  return {
    state: text('.i4-state strong'),
    detail: text('.i4-state-detail'),
    kind: document.querySelector('.i4-run-head').dataset.kind,
    run: text('.i4-run-select option:checked'),
    step: Number(document.querySelector('.i4-run .i4-bar').getAttribute('aria-valuenow')),
    steps: Number(document.querySelector('.i4-run .i4-bar').getAttribute('aria-valuemax')),
    chart: path.length,
    summary: document.querySelector('.i4-run .i4-chart-picture').getAttribute('aria-label'),
    previews: document.querySelectorAll('.i4-run .i4-previews-thumb').length,
    said: text('.i4-said'),
    buttons: [...document.querySelectorAll('.i4-run .i4-buttons button')].map((button) => button.disabled),
    files: [...document.querySelectorAll('.i4-run .i4-files a')].map((link) => link.innerText)
  }
}

async function open(page) {
  await page.evaluate((graph) => window.app.loadGraphData(graph, true, true, 'run'), workflow)
  await look(page)
}

/** Bring the train node into sight. */
async function look(page) {
  await page.evaluate(() => {
    const node = window.app.graph.nodes.find(({ type }) => type === 'Ideogram4TrainLoRA')
    for (const other of window.app.graph.nodes) if (other !== node) other.pos = [other.pos[0], other.pos[1] - 3000]
    node.setSize([460, 1150])
    const { ds } = window.app.canvas
    ds.scale = 0.75
    ds.offset = [300 - node.pos[0], 60 - node.pos[1]]
    window.app.canvas.setDirty(true, true)
  })
}

/** Two prompts at the smallest size, connected to the train node. */
async function addPreviews(page) {
  await page.evaluate(() => {
    const { graph } = window.app
    const of = (type) => graph.nodes.find((node) => node.type === type)
    const train = of('Ideogram4TrainLoRA')
    const node = window.LiteGraph.createNode('Ideogram4Previews')
    graph.add(node)
    const set = (name, value) => (node.widgets.find((widget) => widget.name === name).value = value)
    set('prompts', 'a red circle\na blue square')
    set('width', 256)
    set('height', 256)
    set('every', 0)
    of('CLIPLoader').connect(0, node, 'clip')
    of('VAELoader').connect(0, node, 'vae')
    node.connect(0, train, 'previews')
  })
}

const reached = (page, step) =>
  page.waitForFunction(
    (least) => Number(document.querySelector('.i4-run .i4-bar')?.getAttribute('aria-valuenow')) >= least,
    step,
    { timeout: WAIT_MS }
  )
const says = (page, words) =>
  page.waitForFunction(
    (wanted) => document.querySelector('.i4-run .i4-said')?.innerText.includes(wanted),
    words,
    { timeout: WAIT_MS }
  )
const button = (page, name) => page.locator('.i4-run').getByRole('button', { name, exact: true })

/** The values of the first step, by the keyboard's cursor. */
async function valuesOfFirstStep(page) {
  await page.locator('.i4-run .i4-cursor').focus()
  await page.keyboard.press('Home')
  const values = await page.locator('.i4-run .i4-cursor').getAttribute('aria-valuetext')
  await page.keyboard.press('Escape')
  return values
}

async function picture(page, name) {
  if (folder) await page.screenshot({ path: join(folder, `run-${vueNodes ? 'vue' : 'canvas'}-${name}.png`) })
}

const told = await withFrontend(url, { 'Comfy.VueNodes.Enabled': vueNodes, ...settings }, async (page) => {
  const errors = []
  page.on('pageerror', (error) => errors.push(error.message))
  await open(page)
  await page.waitForSelector('.i4-run')
  const before = { kind: await page.locator('.i4-run-head').getAttribute('data-kind'), buttons: (await page.evaluate(read)).buttons }
  await picture(page, 'before')
  await addPreviews(page)
  await page.evaluate(() => window.app.queuePrompt(0, 1))

  await page.waitForFunction(() => document.querySelector('.i4-run-head')?.dataset.kind === 'training', null, { timeout: WAIT_MS })
  await reached(page, 5)
  const early = await page.evaluate(read)
  await reached(page, early.step + 20)
  const later = await page.evaluate(read)
  await button(page, 'Save now').click()
  await says(page, 'Saved at step')
  const saved = await page.evaluate(read)
  await button(page, 'Preview now').click()
  await says(page, 'are there')
  await page.waitForFunction(() => document.querySelectorAll('.i4-run .i4-previews-thumb').length >= 2, null, { timeout: WAIT_MS })
  const previewed = await page.evaluate(read)
  await picture(page, 'training')

  await page.locator('.i4-run .i4-previews-thumb').first().click()
  await page.waitForFunction(() => document.querySelector('.i4-preview-viewer-image')?.naturalWidth > 0)
  const large = { first: await page.locator('.i4-preview-viewer').innerText() }
  await page.keyboard.press('ArrowRight')
  large.second = await page.locator('.i4-preview-viewer').innerText()
  await page.waitForTimeout(200)
  await picture(page, 'viewer')
  await page.keyboard.press('Escape')
  await page.waitForSelector('.i4-preview-viewer', { state: 'detached', timeout: 5_000 }).catch(() => {})
  large.open = await page.locator('.i4-preview-viewer').count()

  await page.reload()
  await page.waitForFunction(() => window.app?.graph?.nodes?.length, null, { timeout: 60_000 })
  await look(page)
  await reached(page, later.step)
  const reloaded = { ...(await page.evaluate(read)), first: await valuesOfFirstStep(page) }

  const tab = await page.context().browser().newPage({ viewport: page.viewportSize() })
  await tab.goto(url)
  await tab.waitForFunction(() => window.app?.graph && Object.keys(window.LiteGraph?.registered_node_types ?? {}).length > 100, null, { timeout: 60_000 })
  await open(tab)
  await reached(tab, later.step)
  const second = { ...(await tab.evaluate(read)), first: await valuesOfFirstStep(tab) }

  await button(tab, 'Stop and keep').click()
  const asked = await tab.locator('.i4-run .i4-sure').innerText()
  await picture(tab, 'sure')
  await button(tab, 'Stop and keep it').click()
  await tab.waitForFunction(() => document.querySelector('.i4-run-head').dataset.kind === 'stopped', null, { timeout: WAIT_MS })
  await finished(url)
  const stopped = await tab.evaluate(read)
  await picture(tab, 'stopped')
  await page.bringToFront()
  await page.waitForFunction(() => document.querySelector('.i4-run-head').dataset.kind === 'stopped', null, { timeout: WAIT_MS })
  const stoppedInFirst = await page.evaluate(read)

  const prompt = (await page.evaluate(() => window.app.graphToPrompt())).output
  const values = await page.evaluate(
    () => window.app.graph.serialize().nodes.find(({ type }) => type === 'Ideogram4TrainLoRA').widgets_values
  )
  return { before, early, later, saved, previewed, large, reloaded, second, asked, stopped, stoppedInFirst, prompt, values, errors }
})
process.stdout.write(JSON.stringify(told))
