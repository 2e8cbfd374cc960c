// Open a workflow in ComfyUI's own frontend, press Run, wait, and take a picture of the graph with its results.
// Started by make_workflows.py. Input on stdin: { url, workflow, picture: path }.

import { BARE_CANVAS, readInput, takePicture, withFrontend } from './frontend.mjs'

const RUN_TIMEOUT_MS = 420_000

const { url, workflow, picture } = await readInput()
await withFrontend(url, BARE_CANVAS, async (page) => {
  await page.evaluate((graph) => window.app.loadGraphData(graph, true, true, 'run'), workflow)
  await page.evaluate(() => window.app.queuePrompt(0, 1))
  await finished()
  await page.waitForTimeout(1000) // the results are drawn when their message and picture have arrived
  await takePicture(page, picture)
})

/** Wait until the server has one finished run. Throws when it failed or takes too long. */
async function finished() {
  const deadline = Date.now() + RUN_TIMEOUT_MS
  while (Date.now() < deadline) {
    const [run] = Object.values(await (await fetch(`${url}/history`)).json())
    if (run?.status.status_str === 'error') throw new Error(JSON.stringify(run.status.messages.at(-1)))
    if (run) return
    await new Promise((resolve) => setTimeout(resolve, 500))
  }
  throw new Error('the run did not finish')
}
