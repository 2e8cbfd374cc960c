// Reading the sheet of a dataset: all its pages one after the other, and again when more becomes known.

import { findDataset, PAGE, readSheet } from './library.js'
import { beginSheet, knownCount, withPage } from './sheet.js'

const PENDING_PAUSE_MS = 1200
const MAX_PENDING_PAUSE_MS = 10_000

/**
 * Read the sheet of the dataset called `name`. `onSheet(id, sheet)` is called whenever more of it is known; null for
 * both when there is no such dataset. Throws `ServerError`, and AbortError when a newer request has taken over.
 */
export async function readDataset(name, wishes, { signal, onSheet }) {
  const id = await findDataset(name, signal)
  const sheet = id === null ? null : await readPages(id, wishes, signal, (known) => onSheet(id, known))
  onSheet(id, sheet)
  return { id, sheet }
}

/** Wait until all is known of a sheet that says it is `pending`, and read it once more. */
export async function readRest({ id, sheet }, wishes, { signal, onSheet }) {
  let pause = PENDING_PAUSE_MS
  while (sheet?.pending) {
    await rest(pause, signal)
    pause = Math.min(2 * pause, MAX_PENDING_PAUSE_MS)
    const { pending } = await readSheet(id, wishes, 0, 1, signal)
    if (pending) continue
    sheet = await readPages(id, wishes, signal, () => {})
    onSheet(id, sheet)
  }
}

async function readPages(id, wishes, signal, onSheet) {
  let sheet = beginSheet(await readSheet(id, wishes, 0, PAGE, signal))
  onSheet(sheet)
  while (knownCount(sheet) < sheet.total) {
    const page = await readSheet(id, wishes, knownCount(sheet), PAGE, signal)
    // It changed between two pages: what was read belongs to a dataset that is not there any more.
    if (page.version !== sheet.version) return readPages(id, wishes, signal, onSheet)
    if (!page.items.length) break
    sheet = withPage(sheet, page)
    onSheet(sheet)
  }
  return sheet
}

function rest(milliseconds, signal) {
  return new Promise((done, fail) => {
    const timer = setTimeout(done, milliseconds)
    signal.addEventListener('abort', () => {
      clearTimeout(timer)
      fail(signal.reason)
    }, { once: true })
  })
}
