// The state of a run in words. Pure.

import { formatBytes, formatDuration } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'
import { stepsDone } from './state.js'

const TEXT = await translated('run/words', {
  none: 'No run yet',
  noneDetail: 'Press Run. Progress, loss and previews appear here.',
  preparing: 'Getting ready',
  preparingDetail: 'The model is loaded and checked. Training begins after that.',
  reading: 'Reading the journal …',
  starting: 'Waiting',
  startingDetail: 'Everything is loaded. The first step is being done.',
  training: 'Training',
  beside: { previews: 'Making previews', validation: 'Measuring the images held out' },
  finished: 'Finished',
  finishedDetail: 'The LoRA has gone on to the save node.',
  kept: 'Stopped and kept',
  keptDetail: 'You stopped it. The LoRA so far has gone on to the save node.',
  cancelled: 'Cancelled',
  failed: 'Stopped by an error',
  cut: 'Interrupted',
  cutDetail: 'Nothing is training it any more. To go on from its newest checkpoint, choose this run under resume and press Run.',
  notBegun: 'Could not begin',
  gone: 'Not there',
  goneDetail: 'The folder of this run was deleted. Press Run to start a new one.',
  noAnswer: 'No connection',
  unknown: '–'
})

/** What a run that ended gives as reason when somebody wanted it to end. */
const WANTED = { kept: [TEXT.kept, TEXT.keptDetail], cancelled: [TEXT.cancelled, ''] }

/**
 * { kind, title, detail } of what a feed shows, or of no feed at all. `kind` is none, waiting, training, finished,
 * stopped, failed or offline. `preparing`: ComfyUI has come to the node, and its run is not there yet; `problem`: the
 * node failed before there was a run, for this reason.
 */
export function describe(feed, preparing, problem) {
  if (problem) return told('failed', TEXT.notBegun, problem)
  if (preparing) return told('waiting', TEXT.preparing, TEXT.preparingDetail)
  if (!feed) return told('none', TEXT.none, TEXT.noneDetail)
  if (feed.error?.status === 404) return told('none', TEXT.gone, TEXT.goneDetail)
  if (feed.error) return told('offline', TEXT.noAnswer, feed.error.message)
  const { state } = feed
  if (!state.started && feed.caughtUp && !feed.active) return told('failed', TEXT.cut, TEXT.cutDetail)
  if (!state.started) return told('waiting', TEXT.starting, feed.caughtUp ? '' : TEXT.reading)
  if (state.end) return describeEnd(state.end)
  if (!feed.active) return told('failed', TEXT.cut, TEXT.cutDetail)
  if (state.beside) return told('training', TEXT.beside[state.beside] ?? TEXT.training, '')
  if (stepsDone(state) === state.firstStep) return told('waiting', TEXT.starting, TEXT.startingDetail)
  return told('training', TEXT.training, '')
}

function describeEnd(end) {
  if (end.kind === 'finished') return told('finished', TEXT.finished, TEXT.finishedDetail)
  const [title, detail] = WANTED[end.reason] ?? [TEXT.failed, '']
  return told(WANTED[end.reason] ? 'stopped' : 'failed', title, end.message || detail)
}

/** Whether a run ended although nobody asked for it. */
export function endedByItself(end) {
  return end?.kind === 'stopped' && !WANTED[end.reason]
}

/** The figures under the progress bar: { left, speed, memory, loss }, each '–' when it is not known. */
export function figures(feed, loss) {
  const state = feed?.state
  const perStep = state?.secondsPerStep
  const goesOn = feed?.active && state && !state.end
  const remaining = goesOn ? (state.secondsLeft ?? null) : null
  return {
    left: remaining === null ? TEXT.unknown : formatDuration(remaining),
    speed: perStep === null || perStep === undefined ? TEXT.unknown : `${formatShort(perStep)} s`,
    memory: state?.peakBytes ? formatBytes(state.peakBytes) : TEXT.unknown,
    loss: loss === null ? TEXT.unknown : formatShort(loss)
  }
}

/** A number in about three digits: `0.4312`, `12.3`, `5e-5`. */
export function formatShort(value) {
  const size = Math.abs(value)
  if (size !== 0 && (size < 0.001 || size >= 100_000)) return value.toExponential(1).replace('.0e', 'e').replace('e+', 'e')
  if (size < 1) return value.toFixed(4).replace(/(\.\d\d\d*?)0+$/, '$1')
  return size < 10 ? value.toFixed(2) : size < 100 ? value.toFixed(1) : Math.round(value).toLocaleString('en')
}

function told(kind, title, detail) {
  return { kind, title, detail }
}
