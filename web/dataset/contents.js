// The lower part of the panel: what the chosen dataset holds, in one line, in full, and as a contact sheet.

import { el } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'
import { createGrid } from './grid.js'
import { imageUrl, readItem, readSheet, writeCaption } from './library.js'
import { countedKinds } from './marks.js'
import { attentionCount, itemNamed, knownCount, neighbour, shownItems, withPage } from './sheet.js'
import { createViewer } from './viewer.js'

const TEXT = await translated('dataset/contents', {
  empty: 'No dataset is chosen. Drop a zip, or images with .txt captions of the same name, on this node.',
  linked: 'The dataset comes from a link. It is read when the graph runs.',
  url: 'The address under url is used instead of a dataset from the input folder. It is read when the graph runs.',
  missing: (name) => `${name} is not in ComfyUI's input folder. Upload it again, or choose another under dataset.`,
  reading: (name) => `Reading ${name}…`,
  images: (count) => (count === 1 ? '1 image' : `${count} images`),
  at: ({ width, height }) => `at ${width} × ${height}`,
  fine: 'nothing stands out',
  attention: (count) => (count === 1 ? '1 needs attention' : `${count} need attention`),
  sofar: (known, total) => `read ${known} of ${total} so far`,
  comparing: 'looking for near-duplicates…',
  filter: 'Only those that need attention',
  report: 'Full report',
  again: 'Try again'
})

/** `{ element, begin(choice), show(id, sheet, choice), fail(message) }`. `reload()` reads the dataset anew. */
export function createContents({ reload }) {
  const status = el('p', { class: 'i4-notice', role: 'status', hidden: true })
  const retry = el('button', { type: 'button', class: 'i4-button', hidden: true, onclick: reload }, TEXT.again)
  const summary = el('span', { class: 'i4-summary' })
  const filter = el('input', { type: 'checkbox', onchange: draw })
  const filterLabel = el('label', { class: 'i4-check' }, filter, TEXT.filter)
  const problem = el('p', { class: 'i4-problem' })
  const report = el('pre', { class: 'i4-report' })
  const details = el('details', {}, el('summary', {}, TEXT.report), report)
  const grid = createGrid({ onOpen: open })
  const scroller = el('div', { class: 'i4-scroll', tabindex: -1 }, problem, details, grid.element)
  const body = el('div', { class: 'i4-body', hidden: true },
    el('div', { class: 'i4-row i4-head' }, summary, filterLabel), scroller)
  const element = el('div', { class: 'i4-contents' }, status, retry, body)
  let current = null // { id, name, sheet, wishes }

  function notice(text, isBad = false) {
    status.textContent = text
    status.hidden = !text
    status.classList.toggle('i4-bad', isBad)
    retry.hidden = !isBad
  }

  /** Say what is being read. False where there is nothing to read. */
  function begin({ dataset, linked, url }) {
    const instead = url ? TEXT.url : linked ? TEXT.linked : dataset ? '' : TEXT.empty
    if (instead || dataset !== current?.name) {
      current = null
      body.hidden = true
    }
    notice(instead || (current ? '' : TEXT.reading(dataset)))
    element.classList.toggle('i4-stale', Boolean(current))
    return !instead
  }

  function show(id, sheet, { dataset, wishes }) {
    element.classList.remove('i4-stale')
    if (id === null) {
      current = null
      body.hidden = true
      return notice(TEXT.missing(dataset), true)
    }
    const isSame = current?.id === id
    current = { id, name: dataset, sheet, wishes }
    notice('')
    body.hidden = false
    if (!isSame) {
      filter.checked = false
      scroller.scrollTop = 0
    }
    draw(isSame)
  }

  function fail(message) {
    element.classList.remove('i4-stale')
    current = null
    body.hidden = true
    notice(message, true)
  }

  function draw(isSame = true) {
    const { id, sheet } = current
    const marked = attentionCount(sheet)
    summary.textContent = summaryOf(sheet, marked)
    summary.title = countedKinds(sheet.items.flatMap(({ marks }) => marks))
    filterLabel.hidden = marked === 0 && !filter.checked
    problem.textContent = sheet.problem
    problem.hidden = !sheet.problem
    if (report.textContent !== sheet.report) report.textContent = sheet.report
    const { version } = sheet
    grid.show(shownItems(sheet, filter.checked), (index) => imageUrl(id, index, version, 'thumb'), isSame !== false)
  }

  // ---- one image ----

  function open(index) {
    const viewer = createViewer(viewedLibrary())
    viewer.element.addEventListener('close', () => grid.focusOn(viewer.index()))
    viewer.open(index)
  }

  /** What the viewer may ask for, of the dataset that was open when it was opened. */
  function viewedLibrary() {
    const { id } = current
    let known = current.sheet
    const sheet = () => (known = current?.id === id ? current.sheet : known)
    return {
      itemAt: (index) => sheet().items[index],
      beside: (index, step) => neighbour(sheet(), filter.checked, index, step),
      place: (index) => [index + 1, sheet().total],
      size: () => sheet().resolution,
      read: (index, signal) => readItem(id, index, sheet().version, signal),
      url: (index) => imageUrl(id, index, sheet().version, 'large'),
      async save(index, caption, was) {
        const saved = await writeCaption(id, index, { version: sheet().version, caption, was })
        if (current?.id === id) {
          current.sheet = { ...current.sheet, version: saved.version }
          // It is saved, whatever becomes of this.
          await refresh(index).catch(() => reload())
        }
        return saved
      },
      async reload(name) {
        await reload()
        return current?.id === id ? itemNamed(sheet(), name)?.index ?? null : null
      }
    }
  }

  /** Read one image of the sheet again, whose caption has just been saved. */
  async function refresh(index) {
    const { id, wishes } = current
    const page = await readSheet(id, wishes, index, 1)
    if (current?.id !== id) return
    current.sheet = withPage(current.sheet, page)
    draw()
  }

  return { element, begin, show, fail }
}

function summaryOf(sheet, marked) {
  const parts = [[TEXT.images(sheet.total), sheet.resolution && TEXT.at(sheet.resolution)].filter(Boolean).join(' ')]
  const known = knownCount(sheet)
  if (known < sheet.total) parts.push(TEXT.sofar(known, sheet.total))
  parts.push(marked ? TEXT.attention(marked) : known < sheet.total || sheet.pending ? '' : TEXT.fine)
  if (sheet.pending) parts.push(TEXT.comparing)
  return parts.filter(Boolean).join(', ')
}
