// What the panel's pure modules make of journals and numbers, as JSON. Started by test_runs_state.py.
// Input on stdin: { web, journals, plots }. `web` is a copy of web/ that Node takes for ES modules. A journal is a list
// of parts, each a list of events: they are folded part by part.

import { pathToFileURL } from 'node:url'

import { readInput } from './frontend.mjs'

const { web, journals = [], plots = [] } = await readInput()
const load = (name) => import(pathToFileURL(`${web}/run/${name}`))
const { bestValidation, emptyState, foldEvents, nearestPoint, previewSteps, smoothedLoss, stepsDone } = await load('state.js')
const { chartRange, linePath, scale, ticks } = await load('plot.js')
const { describe, figures } = await load('words.js')

const states = journals.map((parts) => {
  const state = parts.reduce(foldEvents, emptyState())
  const feed = (active) => ({ state, active, caughtUp: true, error: null })
  return {
    ...state,
    previews: [...state.previews.values()],
    done: stepsDone(state),
    best: bestValidation(state),
    previewSteps: previewSteps(state),
    smoothed: smoothedLoss(state),
    nearest: [0, 3, 1e9].map((step) => nearestPoint(state.points, step)?.step ?? null),
    words: { active: describe(feed(true)), idle: describe(feed(false)) },
    figures: figures(feed(true), smoothedLoss(state))
  }
})

const drawn = plots.map(({ losses, width, log }) => {
  const points = losses.map((loss, index) => ({ step: index + 1, loss }))
  const range = chartRange(losses.length, losses, [], log)
  const of = (point) => (log && point.loss <= 0 ? null : point.loss)
  return {
    range,
    path: linePath(points, of, scale(range.steps, [0, width]), scale(range.values, [100, 0], log)),
    ticks: ticks(range.values, 5, log)
  }
})
process.stdout.write(JSON.stringify({ states, drawn }))
