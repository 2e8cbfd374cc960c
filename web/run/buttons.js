// Save now, Preview now, Stop and keep: what may be asked of a run, and what has become of it.

import { postJson } from '../lib/api.js'
import { el } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'

const TEXT = await translated('run/buttons', {
  save: 'Save now',
  saveTitle: 'Write a checkpoint after this step',
  preview: 'Preview now',
  previewTitle: 'Make the previews after this step',
  noPreviews: 'This run has no previews: connect an Ideogram 4 Previews node before the next one',
  stop: 'Stop and keep',
  stopTitle: 'End the training here and hand the LoRA on',
  group: 'Ask something of the run',
  sure: 'Stops after this step; the LoRA goes on to the save node.',
  yes: 'Stop and keep it',
  no: 'Go on training',
  taken: {
    save: 'Asked to save. It is done after this step.',
    preview: 'Asked for previews. They are made after this step.',
    stop: 'Asked to stop. It ends after this step.'
  },
  done: {
    save: (step) => `Saved at step ${step.toLocaleString('en')}.`,
    preview: (step) => `The previews of step ${step.toLocaleString('en')} are there.`,
    stop: (step) => `Stopped at step ${step.toLocaleString('en')}; the LoRA was kept.`
  },
  failed: 'That did not work. What needs attention above says why.',
  over: 'The run ended before that.'
})

/** `{ element, show(feed) }`. */
export function runButtons() {
  let feed = null
  let starts = 0
  /** What was asked and is not answered yet: name to { starts, answers }, how many there were then. */
  const waiting = new Map()
  const buttons = {
    save: el('button', { type: 'button', class: 'i4-button', title: TEXT.saveTitle, onclick: () => request('save') }, TEXT.save),
    preview: el('button', { type: 'button', class: 'i4-button', onclick: () => request('preview') }, TEXT.preview),
    stop: el('button', { type: 'button', class: 'i4-button', title: TEXT.stopTitle, onclick: () => confirmStop(true) }, TEXT.stop)
  }
  const yes = el('button', { type: 'button', class: 'i4-button i4-button-strong', onclick: () => request('stop') }, TEXT.yes)
  const no = el('button', { type: 'button', class: 'i4-button', onclick: () => confirmStop(false) }, TEXT.no)
  const sure = el('div', { class: 'i4-sure', role: 'alertdialog', 'aria-label': TEXT.stop, hidden: true }, el('p', {}, TEXT.sure), yes, no)
  const said = el('p', { class: 'i4-said', role: 'status', 'aria-live': 'polite' })
  const row = el('div', { class: 'i4-buttons', role: 'group', 'aria-label': TEXT.group }, Object.values(buttons))
  const element = el('div', { class: 'i4-requests' }, row, sure, said)
  sure.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') confirmStop(false)
  })

  function confirmStop(open) {
    const focused = sure.contains(document.activeElement)
    sure.hidden = !open
    row.hidden = open
    if (open) no.focus()
    else if (focused) buttons.stop.focus()
  }

  async function request(what) {
    if (!sure.hidden) confirmStop(false)
    const { run, state } = feed
    waiting.set(what, { starts: state.starts, answers: answersTo(what, state).length })
    say('')
    show(feed)
    try {
      await postJson(`/runs/${encodeURIComponent(run)}/requests`, { request: what })
      if (waiting.has(what)) say(TEXT.taken[what])
    } catch (error) {
      waiting.delete(what)
      say(error.message, true)
    }
    show(feed)
    feed?.look()
  }

  function show(next) {
    if (next?.run !== feed?.run) {
      waiting.clear()
      say('')
      if (!sure.hidden) confirmStop(false)
    }
    const again = feed?.state === next?.state && next && next.state.starts !== starts
    starts = next?.state.starts ?? 0
    feed = next
    settle()
    if (again && !waiting.size) say('')
    const running = Boolean(feed?.active && feed.state.started && !feed.state.end)
    const previews = Boolean(feed?.state.previewPlan?.prompts.length)
    if (!running && !sure.hidden) confirmStop(false)
    for (const [what, button] of Object.entries(buttons)) {
      button.disabled = !running || waiting.has(what) || waiting.has('stop') || (what === 'preview' && !previews)
      button.setAttribute('aria-busy', String(waiting.has(what)))
    }
    buttons.preview.title = running && !previews ? TEXT.noPreviews : TEXT.previewTitle
  }

  /** The journal shows what has become of what was asked. */
  function settle() {
    for (const [what, asked] of waiting) {
      const state = feed?.state
      const answer = state && (what === 'stop' ? keptAt(state) : answersTo(what, state)[asked.answers])
      const over = !feed?.active || state.end || state.starts > asked.starts
      if (!answer && !over) continue
      waiting.delete(what)
      if (!answer) say(TEXT.over)
      else if (answer.done) say(TEXT.done[what](answer.step))
      else say(TEXT.failed, true)
    }
  }

  function say(text, bad = false) {
    said.textContent = text
    said.classList.toggle('i4-bad', bad)
  }

  return { element, show }
}

function answersTo(what, state) {
  return state.answers.filter(({ request }) => request === what)
}

/** The answer to stop and keep is the end of the run. */
function keptAt(state) {
  return state.end?.reason === 'kept' ? { done: true, step: state.end.step } : null
}
