// What a run's journal says, folded event by event into one state. Pure: no page, no network, no clock.
//
// A state belongs to whoever folds into it and is changed in place; the same lines always give the same state, however
// they are cut into parts. After a run was resumed at a step, what an earlier line says of later steps is void: those
// steps were lost and are done again. The same step twice: the later line holds.

const MAX_NOTES = 50

/** A state before the first line. */
export function emptyState() {
  return {
    started: false,
    steps: 0,
    /** Step at which the newest start began, for the speed of this start alone. */
    firstStep: 0,
    origin: { node: '', workflow: '' },
    /** By step, ascending, without gaps being filled: { step, loss, smoothed, rate, skipped }. */
    points: [],
    secondsPerStep: null,
    secondsLeft: null,
    peakBytes: 0,
    memoryPlan: '',
    /** By step, ascending: { step, name }. */
    checkpoints: [],
    /** By step, ascending: { step, loss, trainLoss, images, best }. */
    validations: [],
    /** What the rows and columns of the previews are, null without any: { prompts, width, height, seed, guided, ... }. */
    previewPlan: null,
    /** By `step/prompt`: { step, prompt, time }. */
    previews: new Map(),
    /** The newest last: { step, time, text }. */
    notes: [],
    /** What is done between two steps at the moment: previews, validation or ''. */
    beside: '',
    /** How often the run was started or resumed. */
    starts: 0,
    /** What became of requests, the newest last: { request, done, step }. */
    answers: [],
    /** How the run ended, null while it goes on: { kind, step, reason, message, lora, time }. */
    end: null,
    /** Of the newest line, in seconds since 1970. */
    time: 0
  }
}

/** `state` after these lines of the journal, in their order. */
export function foldEvents(state, events) {
  for (const event of events) {
    if (!isStep(event?.step) || typeof event.event !== 'string') continue
    if (isNumber(event.time)) state.time = event.time
    if (Object.hasOwn(FOLDS, event.event)) FOLDS[event.event](state, event)
  }
  return state
}

const FOLDS = {
  started(state, event) {
    begin(state, event)
  },
  resumed(state, event) {
    for (const name of ['points', 'checkpoints', 'validations']) truncate(state[name], event.step)
    for (const [key, preview] of state.previews) if (preview.step > event.step) state.previews.delete(key)
    begin(state, event)
  },
  beside(state, event) {
    state.beside = textOf(event.what)
  },
  step(state, event) {
    state.beside = ''
    put(state.points, {
      step: event.step,
      loss: numberOrNull(event.loss),
      smoothed: numberOrNull(event.smoothed_loss),
      rate: numberOrNull(event.learning_rate),
      skipped: event.skipped === true
    })
    if (isNumber(event.seconds_per_step)) state.secondsPerStep = event.seconds_per_step
    if (isNumber(event.seconds_left)) state.secondsLeft = event.seconds_left
    if (isNumber(event.peak_bytes)) state.peakBytes = Math.max(state.peakBytes, event.peak_bytes)
  },
  checkpoint(state, event) {
    put(state.checkpoints, { step: event.step, name: textOf(event.name) })
  },
  validation(state, event) {
    put(state.validations, {
      step: event.step,
      loss: numberOrNull(event.loss),
      trainLoss: numberOrNull(event.train_loss),
      images: isNumber(event.images) ? event.images : 0,
      best: event.best === true
    })
  },
  previews(state, event) {
    const prompts = Array.isArray(event.prompts) ? event.prompts.map(textOf) : []
    state.previewPlan = { ...event, prompts, guided: event.guided !== false }
  },
  preview(state, event) {
    if (!isStep(event.prompt)) return
    const { step, prompt, time } = event
    const key = `${step}/${prompt}`
    state.previews.delete(key) // so that the newest is the last
    state.previews.set(key, { step, prompt, time: numberOrNull(time) ?? 0 })
  },
  memory(state, event) {
    if (event.plan) state.memoryPlan = textOf(event.plan)
    if (isNumber(event.allocated_bytes)) state.peakBytes = Math.max(state.peakBytes, event.allocated_bytes)
  },
  note(state, event) {
    state.notes.push({ step: event.step, time: numberOrNull(event.time) ?? 0, text: textOf(event.text) })
    if (state.notes.length > MAX_NOTES) state.notes.shift()
  },
  answered(state, event) {
    state.beside = ''
    state.answers.push({ request: textOf(event.request), done: event.done === true, step: event.step })
    if (state.answers.length > MAX_NOTES) state.answers.shift()
  },
  stopped(state, event) {
    end(state, event)
  },
  finished(state, event) {
    end(state, event)
  }
}

function begin(state, event) {
  state.started = true
  state.starts += 1
  state.beside = ''
  state.end = null
  state.firstStep = event.step
  state.secondsPerStep = null
  state.secondsLeft = null
  state.peakBytes = 0
  if (isStep(event.steps)) state.steps = event.steps
  const { node, workflow } = event.origin ?? {}
  state.origin = { node: textOf(node), workflow: textOf(workflow) }
}

function end(state, event) {
  state.beside = ''
  state.end = {
    kind: event.event,
    step: event.step,
    reason: textOf(event.reason),
    message: textOf(event.message),
    lora: textOf(event.lora),
    time: numberOrNull(event.time) ?? 0
  }
}

// ---- reading a state -------------------------------------------------------------------------------------------

/** Steps done. */
export function stepsDone(state) {
  return Math.max(state.points.at(-1)?.step ?? 0, state.started ? state.firstStep : 0)
}

/** The point of a step, or of the nearest step that has one; null when there are none. */
export function nearestPoint(points, step) {
  if (!points.length) return null
  const after = indexAfter(points, step)
  const before = points[after - 1]
  const next = points[after]
  if (!before) return next
  return next && next.step - step < step - before.step ? next : before
}

/** The newest smoothed loss, null before there is one. */
export function smoothedLoss(state) {
  for (let index = state.points.length - 1; index >= 0; index -= 1) {
    if (state.points[index].smoothed !== null) return state.points[index].smoothed
  }
  return null
}

/** The newest validation that was the best so far, which it says itself; null without any. */
export function bestValidation(state) {
  return state.validations.findLast(({ best }) => best) ?? null
}

/** Steps that have a preview, ascending. */
export function previewSteps(state) {
  return [...new Set([...state.previews.values()].map(({ step }) => step))].sort((a, b) => a - b)
}

// ---- lists by step ---------------------------------------------------------------------------------------------

/** Enter an item at its place; it replaces one of the same step. */
function put(list, item) {
  if (!list.length || list.at(-1).step < item.step) {
    list.push(item)
    return
  }
  const index = indexAfter(list, item.step)
  if (list[index - 1]?.step === item.step) list[index - 1] = item
  else list.splice(index, 0, item)
}

/** Drop the items of later steps. */
function truncate(list, step) {
  list.length = indexAfter(list, step)
}

/** Index of the first item of a later step. */
function indexAfter(list, step) {
  let low = 0
  let high = list.length
  while (low < high) {
    const middle = (low + high) >> 1
    if (list[middle].step <= step) low = middle + 1
    else high = middle
  }
  return low
}

// ---- values of a file that anything may have happened to ----------------------------------------------------------

function isNumber(value) {
  return typeof value === 'number' && Number.isFinite(value)
}

function isStep(value) {
  return Number.isInteger(value) && value >= 0
}

function numberOrNull(value) {
  return isNumber(value) ? value : null
}

function textOf(value) {
  return typeof value === 'string' ? value : ''
}
