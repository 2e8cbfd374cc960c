// What a person does with the example "Train a LoRA and watch it", from the zip to the LoRA in the loader's list.
// Started by test_user_story.py and make_workflows.py. Input on stdin: { url, workflow, zip: path, vueNodes, settings,
// caption, stopAt, pictures: folder or null }. Output: what was seen at each stage.

import { join } from 'node:path'

import { dropFiles } from './drops.mjs'
import { BARE_CANVAS, finished, readInput, withFrontend } from './frontend.mjs'

const WAIT_MS = 180_000
const input = await readInput()
const { url, workflow, vueNodes, pictures } = input
const seen = {}

const settings = { ...BARE_CANVAS, 'Comfy.VueNodes.Enabled': vueNodes, ...input.settings }

/** A picture for the README: of the nodes of these classes as they stand in the page, or of all of it. */
async function picture(page, name, types = []) {
  if (!pictures) return
  await page.addStyleTag({ content: '.comfy-menu, .p-toast, .comfyui-menu { display: none !important }' })
  await page.waitForTimeout(500)
  const clip = types.length ? await page.evaluate(placeOf, types) : undefined
  await page.screenshot({ path: join(pictures, `${name}.jpg`), type: 'jpeg', quality: 88, clip })
}

/** Runs in the page: the rectangle around the nodes of these classes, in pixels of the page. */
function placeOf(types) {
  const margin = 24
  const { canvas, graph } = window.app
  const { scale, offset } = canvas.ds
  const boxes = graph.nodes.filter((node) => types.includes(node.type)).map(({ pos, size }) => ({
    left: (pos[0] + offset[0]) * scale,
    top: (pos[1] + offset[1] - window.LiteGraph.NODE_TITLE_HEIGHT) * scale,
    right: (pos[0] + size[0] + offset[0]) * scale,
    bottom: (pos[1] + size[1] + offset[1]) * scale
  }))
  const x = Math.max(0, Math.min(...boxes.map(({ left }) => left)) - margin)
  const y = Math.max(0, Math.min(...boxes.map(({ top }) => top)) - margin)
  const width = Math.min(innerWidth, Math.max(...boxes.map(({ right }) => right)) + margin) - x
  const height = Math.min(innerHeight, Math.max(...boxes.map(({ bottom }) => bottom)) + margin) - y
  return { x, y, width, height }
}

/** Wait for what a function says in the page. */
const until = (page, test, value) => page.waitForFunction(test, value, { timeout: WAIT_MS })

/** Show one node of a class large, at the left of the page. */
async function lookAt(page, type, scale = 1, size = null) {
  await page.evaluate(
    ({ type, scale, size }) => {
      const node = window.app.graph.nodes.find((candidate) => candidate.type === type)
      if (size) node.setSize(size)
      const { canvas } = window.app
      canvas.deselectAll()
      canvas.ds.scale = scale
      canvas.ds.offset = [40 / scale - node.pos[0], 60 / scale - node.pos[1]]
      canvas.setDirty(true, true)
    },
    { type, scale, size }
  )
  await page.waitForTimeout(400)
}

/** Runs in the page: what the train node's panel shows. */
function watched() {
  const bar = document.querySelector('.i4-run .i4-bar')
  return {
    kind: document.querySelector('.i4-run-head').dataset.kind,
    step: Number(bar.getAttribute('aria-valuenow')),
    steps: Number(bar.getAttribute('aria-valuemax')),
    line: (document.querySelector('.i4-run .i4-chart-picture path.i4-line-smooth')?.getAttribute('d') ?? '').length,
    previews: document.querySelectorAll('.i4-run .i4-previews-thumb img').length,
    rows: [...document.querySelectorAll('.i4-run .i4-previews-step')].map((step) => step.textContent),
    run: document.querySelector('.i4-run .i4-run-select option:checked').textContent
  }
}

const reached = (page, step) =>
  until(page, (least) => Number(document.querySelector('.i4-run .i4-bar')?.getAttribute('aria-valuenow')) >= least, step)

async function bringData(page) {
  await lookAt(page, 'Ideogram4LoadDataset')
  const title = await page.evaluate(() => {
    const node = window.app.graph.nodes.find(({ type }) => type === 'Ideogram4LoadDataset')
    const { scale, offset } = window.app.canvas.ds
    return { x: (node.pos[0] + offset[0] + 60) * scale, y: (node.pos[1] + offset[1] - 15) * scale }
  })
  await dropFiles(page, title, [input.zip])
  await until(page, () => {
    const images = [...document.querySelectorAll('.i4-dataset .i4-tile img')]
    const busy = /looking for|so far/.test(document.querySelector('.i4-dataset .i4-summary')?.textContent ?? 'so far')
    return images.length > 3 && images[0].naturalWidth > 0 && !busy
  })
  seen.summary = await page.locator('.i4-dataset .i4-summary').textContent()
  seen.marks = await page.locator('.i4-dataset .i4-mark').allTextContents()
  await page.waitForTimeout(500)
  await picture(page, 'dataset', ['Ideogram4LoadDataset', 'Ideogram4ResolveResolution'])
}

async function correctCaption(page) {
  await page.locator('.i4-dataset .i4-tile').nth(1).click()
  await page.waitForSelector('dialog[open] textarea')
  await until(page, () => document.querySelector('dialog[open] img')?.naturalWidth > 0)
  await page.waitForTimeout(300)
  await picture(page, 'caption')
  seen.captionBefore = await page.locator('dialog[open] textarea').inputValue()
  await page.locator('dialog[open] textarea').fill(input.caption)
  await page.keyboard.press('Control+Enter')
  await page.getByRole('button', { name: 'Back to the original' }).waitFor()
  await page.keyboard.press('Escape')
  await page.waitForSelector('dialog[open]', { state: 'detached' })
}

await withFrontend(url, settings, async (page) => {
  const errors = []
  page.on('pageerror', (error) => errors.push(error.message))
  await page.evaluate((graph) => window.app.loadGraphData(graph, true, true, 'story'), workflow)
  await page.waitForSelector('.i4-run')

  await bringData(page)
  await correctCaption(page)

  await page.evaluate(() => window.app.queuePrompt(0, 1))
  await lookAt(page, 'Ideogram4TrainLoRA', 0.75)
  await reached(page, 5)
  const early = await page.evaluate(watched)
  await reached(page, early.step + 40)
  await until(page, () => document.querySelectorAll('.i4-run .i4-previews-step').length >= 2)
  seen.early = early
  seen.later = await page.evaluate(watched)

  await page.reload()
  await until(page, () => window.app?.graph?.nodes?.length)
  await lookAt(page, 'Ideogram4TrainLoRA', 0.75)
  await reached(page, seen.later.step)
  seen.reloaded = await page.evaluate(watched)

  await reached(page, input.stopAt)
  if (pictures) await lookAt(page, 'Ideogram4TrainLoRA', 0.75, [500, 1060])
  await picture(page, 'training', ['Ideogram4TrainLoRA'])
  await page.locator('.i4-run').getByRole('button', { name: 'Stop and keep', exact: true }).click()
  await page.locator('.i4-run').getByRole('button', { name: 'Stop and keep it' }).click()
  await finished(url, WAIT_MS)
  await until(page, () => document.querySelector('.i4-run-head').dataset.kind !== 'training')
  seen.stopped = await page.evaluate(watched)
  await until(page, () => document.querySelector('.i4-saved a'))
  seen.files = await page.locator('.i4-saved a').allTextContents()

  await page.evaluate(() => window.app.refreshComboInNodes())
  seen.loras = await page.evaluate(() => {
    const node = window.LiteGraph.createNode('Ideogram4LoadLoRA')
    return node.widgets.find(({ name }) => name === 'lora_name').options.values
  })
  seen.errors = errors
})
console.log(JSON.stringify(seen))
