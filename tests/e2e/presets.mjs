// Open a training workflow in ComfyUI's own frontend, use the presets, and print what they did, as JSON. Started by
// test_presets_in_browser.py. Input on stdin: { url, workflow, vueNodes, goal, card, leave, folder, settings }: `leave`
// names a row that is unticked; `folder`, if given, gets pictures. Output: { before, offered, rows, words, said, after,
// saved, sent, undone }: widget values before and after by node class, the card that the dialog begins with, its rows
// and its prediction, what the node then says, the train node's values as they would be saved and sent, and widget
// values after Ctrl+Z.

import { join } from 'node:path'

import { readInput, withFrontend } from './frontend.mjs'

const { url, workflow, vueNodes, goal, card, leave, folder, settings = {} } = await readInput()
const CLASSES = ['Ideogram4TrainLoRA', 'Ideogram4ResolveResolution', 'Ideogram4TrainSettings']

/** Runs in the page. */
function values(classes) {
  const nodes = window.app.graph.nodes.filter(({ type }) => classes.includes(type))
  return Object.fromEntries(
    nodes.map(({ type, widgets }) => [type, Object.fromEntries(widgets.map(({ name, value }) => [name, value]))])
  )
}

const told = await withFrontend(url, { 'Comfy.VueNodes.Enabled': vueNodes, ...settings }, async (page) => {
  await page.evaluate((graph) => window.app.loadGraphData(graph, true, true, 'presets'), workflow)
  await page.evaluate(() => {
    const node = window.app.graph.nodes.find(({ type }) => type === 'Ideogram4TrainLoRA')
    const { ds } = window.app.canvas
    ds.scale = 1
    ds.offset = [200 - node.pos[0], 120 - node.pos[1]]
    window.app.canvas.setDirty(true, true)
  })
  await page.waitForTimeout(1000)
  const before = await page.evaluate(values, CLASSES)
  if (folder) await page.screenshot({ path: join(folder, 'presets-node.png') })

  await page.locator('.i4-presets-bar button').click()
  const dialog = page.locator('dialog.i4-presets')
  await dialog.locator(`input[value="${goal}"]`).check()
  await page.waitForTimeout(1500) // what the server knows about card and dataset has come
  const offered = await dialog.locator('input[name="i4-card"]:checked').inputValue()
  await dialog.locator(`input[value="${card}"]`).check()
  if (leave) await dialog.getByRole('checkbox', { name: leave }).uncheck()
  const rows = await dialog.locator('tbody tr').allInnerTexts()
  const words = await dialog.locator('.i4-presets-body > p').last().innerText()
  if (folder) await page.screenshot({ path: join(folder, 'presets-dialog.png') })
  await dialog.getByRole('button', { name: 'Apply' }).click()
  await dialog.waitFor({ state: 'detached' })

  const said = await page.locator('.i4-presets-bar span').innerText()
  if (folder) await page.screenshot({ path: join(folder, 'presets-set.png') })
  const { after, saved, sent } = await page.evaluate(
    async ([read, classes]) => {
      const { output } = await window.app.graphToPrompt()
      const node = window.app.graph.serialize().nodes.find(({ type }) => type === 'Ideogram4TrainLoRA')
      return {
        after: new Function(`return (${read})`)()(classes),
        saved: node.widgets_values,
        sent: Object.values(output).find(({ class_type }) => class_type === 'Ideogram4TrainLoRA').inputs
      }
    },
    [values.toString(), CLASSES]
  )
  await page.mouse.click(1200, 700) // the empty canvas
  await page.keyboard.press('Control+z')
  await page.waitForTimeout(500)
  const undone = await page.evaluate(values, CLASSES)
  return { before, offered, rows, words, said, after, saved, sent, undone }
})
process.stdout.write(JSON.stringify(told))
