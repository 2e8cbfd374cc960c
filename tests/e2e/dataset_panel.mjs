// Bring datasets in through the panel on the dataset node, look at them, correct a caption. Started by
// test_dataset_in_browser.py. Input on stdin: { url, vueNodes, zip, folder, loose: [path], broken, odd, hostile,
// size: [width, height], pictures, settings }: paths of things to drop, a caption to type, and optionally a folder for
// pictures. Output: what was seen at each step, by name.

import { join } from 'node:path'

import { dropFiles } from './drops.mjs'
import { readInput, withFrontend } from './frontend.mjs'

const input = await readInput()
const { url, vueNodes, pictures } = input
const seen = {}

const picture = async (page, name) =>
  pictures && page.screenshot({ path: join(pictures, `dataset-${vueNodes ? 'vue' : 'canvas'}-${name}.png`) })

/** Runs in the page: an empty graph but for the dataset node and the node that chooses the size. */
function begin() {
  const { app, LiteGraph } = window
  app.graph.clear()
  const add = (type, x) => {
    const node = LiteGraph.createNode(type)
    node.pos = [x, 60]
    app.graph.add(node)
    return node
  }
  add('Ideogram4LoadDataset', 60).connect(0, add('Ideogram4ResolveResolution', 600), 0)
  app.canvas.ds.scale = 1.1
  app.canvas.ds.offset = [60, 60]
  app.canvas.setDirty(true, true)
}

/** Runs in the page: what the panel and the node say. */
function read() {
  const { nodes } = window.app.graph
  const widget = nodes.find((node) => node.comfyClass === 'Ideogram4LoadDataset').widgets[0]
  const visible = (element) => element && element.offsetParent !== null
  const text = (selector) => {
    const element = document.querySelector(selector)
    return visible(element) ? element.textContent : ''
  }
  return {
    value: widget.value,
    listed: widget.options.values.includes(widget.value),
    summary: text('.i4-dataset .i4-summary'),
    alert: text('.i4-dataset .i4-alert span'),
    report: document.querySelector('.i4-report').textContent,
    tiles: [...document.querySelectorAll('.i4-dataset .i4-tile')].map((tile) => ({
      label: tile.getAttribute('aria-label'),
      words: tile.querySelector('.i4-words').textContent,
      crop: tile.querySelector('.i4-crop')?.getAttribute('style') ?? '',
      marks: [...tile.querySelectorAll('.i4-mark')].map((mark) => mark.textContent),
      signs: tile.querySelectorAll('.i4-mark svg').length
    }))
  }
}

async function look(page, name, wanted) {
  await page.waitForFunction(wanted.test, wanted.value, { timeout: 60_000 })
  seen[name] = await page.evaluate(read)
}

const chosen = (name) => ({
  test: (start) => {
    const images = [...document.querySelectorAll('.i4-dataset .i4-tile img')]
    const value = window.app.graph.nodes.find((node) => node.comfyClass === 'Ideogram4LoadDataset').widgets[0].value
    const waits = /looking for|so far/.test(document.querySelector('.i4-dataset .i4-summary').textContent)
    const there = document.querySelector('.i4-dataset .i4-body').offsetParent !== null
    return there && String(value).startsWith(start) && images[0]?.naturalWidth > 0 && !waits
  },
  value: name
})
const alerted = { test: () => document.querySelector('.i4-dataset .i4-alert').offsetParent !== null }

async function titleOfNode(page) {
  return page.evaluate(() => {
    const node = window.app.graph.nodes.find(({ comfyClass }) => comfyClass === 'Ideogram4LoadDataset')
    const { scale, offset } = window.app.canvas.ds
    const canvas = window.app.canvas.canvas.getBoundingClientRect()
    const at = (value, axis) => (value + offset[axis]) * scale
    return { x: canvas.left + at(node.pos[0] + 150, 0), y: canvas.top + at(node.pos[1] + 12, 1) }
  })
}

async function bringIn(page) {
  await dropFiles(page, await titleOfNode(page), [input.zip])
  await look(page, 'dropped', chosen('dropped'))
  await picture(page, 'sheet')

  await dropFiles(page, '.i4-dataset', input.loose)
  await look(page, 'loose', chosen('images'))

  await dropFiles(page, '.i4-dataset', [input.folder])
  await look(page, 'folder', chosen('holiday'))

  const before = await page.evaluate(async () => (await fetch('/api/ideogram4_lora_trainer/datasets')).json())
  await dropFiles(page, '.i4-dataset', [input.broken])
  await look(page, 'broken', alerted)
  await picture(page, 'broken')
  await dropFiles(page, '.i4-dataset', [input.odd])
  await page.waitForFunction(
    (old) => ![old, ''].includes(document.querySelector('.i4-dataset .i4-alert span').textContent), seen.broken.alert
  )
  await look(page, 'odd', alerted)
  seen.leftBehind = (
    await page.evaluate(async () => (await fetch('/api/ideogram4_lora_trainer/datasets')).json())
  ).datasets.length - before.datasets.length

  await page.locator('.i4-dataset input[type=file]').setInputFiles(input.zip)
  await look(page, 'again', chosen('dropped'))
}

async function scroll(page) {
  const box = await page.locator('.i4-dataset .i4-grid').boundingBox()
  const scale = () => page.evaluate(() => window.app.canvas.ds.scale)
  const top = () => page.evaluate(() => document.querySelector('.i4-dataset .i4-scroll').scrollTop)
  const before = await scale()
  await page.mouse.move(box.x + 40, box.y + 20)
  await page.mouse.wheel(0, 120)
  await page.waitForTimeout(400)
  seen.scroll = { moved: (await top()) > 0, zoomed: (await scale()) !== before }
  await page.evaluate(() => document.querySelector('.i4-dataset .i4-scroll').scrollTo(0, 0))
}

async function chooseSize(page, size) {
  await page.evaluate((custom) => {
    const { widgets } = window.app.graph.nodes.find(({ comfyClass }) => comfyClass === 'Ideogram4ResolveResolution')
    window.app.canvas.emitBeforeChange() // as for a change by hand, which is kept over a reload
    widgets[0].value = 'custom'
    widgets[1].value = custom
    window.app.canvas.emitAfterChange()
  }, size.join('x'))
  await page.waitForFunction(
    (text) => document.querySelector('.i4-dataset .i4-summary').textContent.includes(text), size.join(' × ')
  )
}

/** Runs in the page: what the dialog says. */
function readDialog() {
  const dialog = document.querySelector('dialog.i4-viewer')
  if (!dialog) return null
  return {
    title: dialog.querySelector('.i4-title').textContent,
    caption: dialog.querySelector('textarea').value,
    boxes: [...dialog.querySelectorAll('.i4-box')].map((box) => box.textContent),
    crop: Boolean(dialog.querySelector('.i4-crop')),
    findings: [...dialog.querySelectorAll('.i4-findings li')].map((line) => line.textContent),
    status: dialog.querySelector('.i4-status').textContent,
    asks: !dialog.querySelector('.i4-question').hidden,
    focused: dialog.contains(document.activeElement)
  }
}

const settled = (page) =>
  page.waitForFunction(() => document.querySelector('.i4-viewer .i4-status').textContent === '')

async function openFirst(page) {
  await page.locator('.i4-dataset .i4-tile').first().focus()
  await page.keyboard.press('Enter')
  await page.waitForSelector('dialog.i4-viewer')
  await settled(page)
}

async function correct(page) {
  await openFirst(page)
  seen.opened = await page.evaluate(readDialog)
  await picture(page, 'viewer')
  await page.keyboard.press('ArrowRight')
  await settled(page)
  seen.second = await page.evaluate(readDialog)
  await page.keyboard.press('ArrowLeft')
  await settled(page)

  const box = page.locator('.i4-viewer textarea')
  await box.fill(input.hostile)
  await page.keyboard.press('Escape')
  seen.asked = await page.evaluate(readDialog)
  await picture(page, 'unsaved')
  await page.locator('.i4-question button').last().click()
  await page.keyboard.press('Control+Enter')
  await page.waitForFunction(() => document.querySelector('.i4-viewer .i4-status').textContent.startsWith('Saved'))
  seen.saved = await page.evaluate(readDialog)
  seen.queued = await page.evaluate(async () => (await (await fetch('/api/queue')).json()).queue_running.length)
  await picture(page, 'saved')
  await page.keyboard.press('Escape')
  await page.waitForSelector('dialog.i4-viewer', { state: 'detached' })
  seen.corrected = await page.evaluate(read)
}

/** Somebody else corrects the same image while its dialog is open here. */
async function conflict(page) {
  await openFirst(page)
  await page.evaluate(async () => {
    const base = '/api/ideogram4_lora_trainer/datasets'
    const get = async (path, body) => (await fetch(base + path, body && {
      method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body)
    })).json()
    const { value } = window.app.graph.nodes.find((node) => node.comfyClass === 'Ideogram4LoadDataset').widgets[0]
    const { id } = (await get('')).datasets.find(({ name }) => name === value)
    const { version } = await get(`/${id}/sheet`, { count: 2 })
    const { caption } = await get(`/${id}/items/1?version=${version}`)
    await get(`/${id}/items/1/caption`, { version, caption: 'written elsewhere', was: caption })
  })
  await page.locator('.i4-viewer textarea').fill('written here')
  await page.keyboard.press('Control+Enter')
  await page.waitForFunction(() => document.querySelector('.i4-viewer .i4-status').textContent.includes('changed'))
  seen.conflict = await page.evaluate(readDialog)
  await page.keyboard.press('Escape')
  await page.locator('.i4-question button', { hasText: 'Discard' }).click()
  await page.waitForSelector('dialog.i4-viewer', { state: 'detached' })
  seen.afterConflict = await page.evaluate(read)
}

async function restore(page) {
  await openFirst(page)
  await page.keyboard.press('ArrowRight')
  await page.waitForFunction(() => document.querySelector('.i4-viewer textarea').value === 'written elsewhere')
  await page.locator('.i4-viewer button', { hasText: 'Back to the original' }).click()
  await page.waitForFunction(() => document.querySelector('.i4-viewer .i4-status').textContent.includes('original'))
  seen.restored = await page.evaluate(readDialog)
  await page.keyboard.press('Escape')
}

await withFrontend(url, { 'Comfy.VueNodes.Enabled': vueNodes, ...input.settings }, async (page) => {
  const errors = []
  page.on('pageerror', (error) => errors.push(String(error)))
  // The frontend opens its default workflow first, and knows where a node is when it has drawn it.
  await page.waitForFunction(() => window.app.graph.nodes.length, null, { timeout: 20_000 })
  await page.evaluate(begin)
  await page.waitForTimeout(500)
  await bringIn(page)
  await scroll(page)
  await chooseSize(page, input.size)
  seen.sized = await page.evaluate(read)
  await correct(page)

  const { nodes } = await page.evaluate(() => window.app.graph.serialize())
  seen.graph = nodes.map(({ type, widgets_values: values }) => [type, values])
  seen.prompt = (await page.evaluate(() => window.app.graphToPrompt())).output
  await page.reload()
  await page.waitForFunction(() => window.app?.graph?.nodes?.length, null, { timeout: 60_000 })
  await look(page, 'reloaded', chosen('dropped'))
  await openFirst(page)
  seen.reopened = await page.evaluate(readDialog)
  await page.keyboard.press('Escape')
  await page.waitForSelector('dialog.i4-viewer', { state: 'detached' })

  await conflict(page)
  await restore(page)
  seen.errors = errors
})
process.stdout.write(JSON.stringify(seen))
