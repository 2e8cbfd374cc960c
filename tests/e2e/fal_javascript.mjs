// fal's own client for JavaScript, as a user has it in a script. It knows no other host than fal's, so it is sent to
// this one by its `proxyUrl`, or by its `requestMiddleware`. Reads a JSON object from stdin and prints one.

import { createRequire } from 'node:module'
import { text } from 'node:stream/consumers'

const require = createRequire(process.env.NODE_PACKAGES + '/')
const { createFalClient } = require('@fal-ai/client')
const { api, way, input, endpoint = 'ideogram/v4/trainer' } = JSON.parse(await text(process.stdin))

function rewritten(request) {
  const url = request.url.replace('https://queue.fal.run', `${api}/fal/queue`).replace('https://fal.run', `${api}/fal/run`)
  return Promise.resolve({ ...request, url })
}

const fal = createFalClient({
  credentials: process.env.FAL_KEY,
  ...(way === 'proxy' ? { proxyUrl: { url: `${api}/fal/proxy`, when: 'always' } } : { requestMiddleware: rewritten })
})

const updates = []
try {
  const result = await fal.subscribe(endpoint, { input, logs: true, onQueueUpdate: (update) => updates.push(update) })
  console.log(JSON.stringify({ result, updates }))
} catch (error) {
  console.log(JSON.stringify({ failure: { name: error.name, status: error.status, body: error.body } }))
}
