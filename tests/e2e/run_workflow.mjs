// Open a workflow in ComfyUI's own frontend, press Run, wait, and take a picture of the graph with its results.
// Started by make_workflows.py. Input on stdin: { url, workflow, picture: path }.

import { BARE_CANVAS, finished, readInput, takePicture, withFrontend } from './frontend.mjs'

const { url, workflow, picture } = await readInput()
await withFrontend(url, BARE_CANVAS, async (page) => {
  await page.evaluate((graph) => window.app.loadGraphData(graph, true, true, 'run'), workflow)
  await page.evaluate(() => window.app.queuePrompt(0, 1))
  await finished(url)
  await page.waitForTimeout(1000) // the results are drawn when their message and picture have arrived
  await takePicture(page, picture)
})
