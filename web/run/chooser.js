// The select in the panel's header: the run of this node, or any other run of the server.

import { getJson } from '../lib/api.js'
import { el } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'
import { isOf } from './origin.js'

const TEXT = await translated('run/chooser', {
  label: 'Run to watch',
  own: (run) => (run ? `this node: ${run}` : 'this node'),
  others: 'Watch another run',
  run: ({ id, step, steps, state }) => `${id} (${state === 'running' ? `running, ${step} / ${steps}` : `${state} at ${step}`})`
})

/**
 * `{ element, run, own(run), refresh(), release() }`. `run` is the one to watch, '' for none; `onChange()` is called
 * when it may have become another one. The choice is part of no workflow: it is about looking, not about running.
 */
export function runChooser(node, onChange) {
  let ownRun = ''
  let chosen = ''
  let runs = []
  let fetching = null
  const element = el('select', { class: 'i4-run-select', 'aria-label': TEXT.label, title: TEXT.label })
  element.addEventListener('change', () => {
    chosen = element.value
    onChange()
  })
  const chooser = {
    element,
    get run() {
      return chosen || ownRun
    },
    /** The run that this node is training now. A new one is what the user wants to see. */
    own(run) {
      if (run === ownRun) return
      ownRun = run
      chosen = ''
      fill()
      refresh()
      onChange()
    },
    refresh,
    /** Back to no run: the graph is another one. */
    release() {
      ownRun = chosen = ''
      runs = []
      fill()
    }
  }

  /** Ask the server for its runs; one call at a time. Raises nothing: the list stays as it was. */
  function refresh() {
    fetching ??= getJson('/runs')
      .then(({ runs: told }) => {
        runs = told
        ownRun ||= runs.find(({ origin }) => isOf(node, origin))?.id ?? ''
        fill()
        onChange()
      })
      .catch(() => {})
      .finally(() => (fetching = null))
    return fetching
  }

  function fill() {
    if (chosen && !runs.some(({ id }) => id === chosen)) chosen = ''
    const others = runs.filter(({ id }) => id !== ownRun)
    const options = [
      el('option', { value: '' }, TEXT.own(ownRun)),
      others.length ? el('optgroup', { label: TEXT.others }, others.map((run) => el('option', { value: run.id }, TEXT.run(run)))) : ''
    ]
    element.replaceChildren(...options)
    element.value = chosen
  }

  fill()
  return chooser
}
