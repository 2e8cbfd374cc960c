// What ComfyUI's own frontend shows in Chinese, as JSON. Started by test_languages_in_browser.py. Input on stdin:
// { url, workflow, vueNodes, folder }. Output: { titles, labels, missing, extra, settings }: node titles and widget
// labels, keys of module texts that Chinese lacks or has beyond English, and the pack's settings as modules define them.

import { join } from 'node:path'

import { readInput, withFrontend } from './frontend.mjs'

const { url, workflow, vueNodes, folder } = await readInput()

/** Runs in the page. */
async function compare() {
  const base = '/extensions/ideogram4-lora-trainer'
  const { english } = await import(`${base}/lib/i18n.js`)
  const { SETTINGS } = await import(`${base}/lib/settings.js`)
  const { default: chinese } = await import(`${base}/zh/texts.js`)
  const keys = (texts, path) =>
    Object.entries(texts).flatMap(([key, text]) =>
      typeof text === 'object' && !Array.isArray(text) ? keys(text, `${path}.${key}`) : [`${path}.${key}`]
    )
  const all = (modules) => modules.flatMap(([name, texts]) => keys(texts, name))
  const [here, there] = [all(Object.entries(chinese)), all([...english])]
  return {
    missing: there.filter((key) => !here.includes(key)),
    extra: here.filter((key) => !there.includes(key)),
    settings: Object.fromEntries(SETTINGS.map(({ id, name, tooltip }) => [id.replaceAll('.', '_'), { name, tooltip }]))
  }
}

const told = await withFrontend(url, { 'Comfy.Locale': 'zh', 'Comfy.VueNodes.Enabled': vueNodes }, async (page) => {
  await page.evaluate((graph) => window.app.loadGraphData(graph, true, true, 'zh'), workflow)
  await page.waitForTimeout(1000)
  const shown = await page.evaluate(() => ({
    titles: Object.fromEntries(window.app.graph.nodes.map(({ type, title }) => [type, title])),
    labels: Object.fromEntries(
      window.app.graph.nodes.find(({ type }) => type === 'Ideogram4TrainLoRA').widgets.map(({ name, label }) => [name, label])
    ),
    button: document.querySelector('.i4-presets-bar button')?.innerText
  }))
  if (folder) {
    await page.evaluate(() => {
      const node = window.app.graph.nodes.find(({ type }) => type === 'Ideogram4TrainLoRA')
      window.app.canvas.ds.scale = 1
      window.app.canvas.ds.offset = [200 - node.pos[0], 120 - node.pos[1]]
      window.app.canvas.setDirty(true, true)
    })
    await page.waitForTimeout(500)
    await page.locator('.i4-presets-bar button').click()
    await page.waitForTimeout(1500)
    await page.screenshot({ path: join(folder, 'zh.png') })
  }
  return { ...shown, ...(await page.evaluate(compare)) }
})
// The server keeps settings, and others use it after this.
await fetch(`${url}/api/settings`, {
  method: 'POST',
  headers: { 'Content-Type': 'application/json' },
  body: JSON.stringify({ 'Comfy.Locale': 'en' })
})
process.stdout.write(JSON.stringify(told))
