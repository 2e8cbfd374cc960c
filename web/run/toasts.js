// Toasts about a run that need somebody's attention, each once for a page, however many panels show the run.

import { app } from '../../../scripts/app.js'
import { translated } from '../lib/i18n.js'
import { setting } from '../lib/settings.js'
import { endedByItself } from './words.js'

const TEXT = await translated('run/toasts', {
  stopped: (run) => `Training of ${run} stopped`,
  previews: (run) => `No more previews of ${run}`
})
const PREVIEWS_OFF = /^The previews of step .* without any more of them/

/** A function that is called with a feed after every change, and tells what is new in it. */
export function attentionToasts() {
  /** What has been told, or was there before anybody looked. */
  let run = null
  let heard = 0

  return function tell(feed) {
    if (!feed?.caughtUp) return
    const { state } = feed
    const since = run === feed.run ? heard : Infinity
    ;[run, heard] = [feed.run, state.time]
    if (endedByItself(state.end) && state.end.time > since) {
      toast('error', TEXT.stopped(run), state.end.message, `${run} ${state.end.time}`)
    }
    for (const { time, text } of state.notes) {
      if (time > since && PREVIEWS_OFF.test(text)) toast('warn', TEXT.previews(run), text, `${run} ${time}`)
    }
  }
}

const told = new Set()

function toast(severity, summary, detail, key) {
  if (told.has(key) || !setting('Toasts')) return
  told.add(key)
  app.extensionManager?.toast?.add({ severity, summary, detail })
}
