// Run a workflow in ComfyUI's own frontend and print what the save node then shows, as JSON. Started by
// test_save_in_browser.py. Input on stdin: { url, workflow, vueNodes, folder, settings }, where `folder`, if given,
// gets pictures of the node. Output: { before, after, reloaded, prompt, values }: what the panel shows before the run, after
// it, and after a reload of the page; and the prompt and the node's saved values with the panel there.

import { join } from 'node:path'

import { finished, readInput, withFrontend } from './frontend.mjs'

const { url, workflow, vueNodes, folder, settings = {} } = await readInput()

/** Runs in the page: the lines of the panel, with their links fetched. */
async function read() {
  const panel = document.querySelector('.i4-saved')
  if (!panel) return null
  const files = await Promise.all(
    [...panel.querySelectorAll('li')].map(async (row) => {
      const link = row.querySelector('a')
      const answer = await fetch(link.href)
      return { text: row.innerText, name: link.download, status: answer.status, bytes: (await answer.blob()).size }
    })
  )
  const { width, height } = panel.getBoundingClientRect()
  return { folder: panel.querySelector('p').innerText, files, width, height, scrolls: panel.scrollHeight > panel.clientHeight + 1 }
}

async function open(page) {
  await page.evaluate((graph) => window.app.loadGraphData(graph, true, true, 'save'), workflow)
  await page.evaluate(() => {
    const node = window.app.graph.nodes.find(({ type }) => type === 'Ideogram4SaveLoRA')
    for (const other of window.app.graph.nodes) if (other !== node) other.pos = [other.pos[0], other.pos[1] - 1000]
    const { ds } = window.app.canvas
    ds.scale = 1
    ds.offset = [300 - node.pos[0], 200 - node.pos[1]]
    window.app.canvas.setDirty(true, true)
  })
}

const told = await withFrontend(url, { 'Comfy.VueNodes.Enabled': vueNodes, ...settings }, async (page) => {
  await open(page)
  const before = await page.evaluate(read)
  await page.evaluate(() => window.app.queuePrompt(0, 1))
  await finished(url)
  await page.waitForSelector('.i4-saved li')
  await page.waitForTimeout(500) // the node grows on a later frame
  const after = await page.evaluate(read)
  const prompt = (await page.evaluate(() => window.app.graphToPrompt())).output
  const values = await page.evaluate(
    () => window.app.graph.serialize().nodes.find(({ type }) => type === 'Ideogram4SaveLoRA').widgets_values
  )
  if (folder) await page.screenshot({ path: join(folder, `save-${vueNodes ? 'vue' : 'canvas'}.png`) })
  await page.reload()
  await page.waitForFunction(() => window.app?.graph?.nodes?.length, null, { timeout: 60_000 })
  await page.waitForTimeout(1500)
  const reloaded = await page.evaluate(read)
  if (folder) await page.screenshot({ path: join(folder, `save-${vueNodes ? 'vue' : 'canvas'}-reloaded.png`) })
  return { before, after, reloaded, prompt, values }
})
process.stdout.write(JSON.stringify(told))
