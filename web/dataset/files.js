// What a person dropped or picked, and what becomes of it: a zip, or a folder of images and captions.

import { translated } from '../lib/i18n.js'

const TEXT = await translated('dataset/files', {
  nothing: 'Nothing here can be read as a dataset. Use one .zip, or images (.png, .jpg, .webp) with .txt captions.',
  noImages: 'There is no image among these files. Add the .png, .jpg or .webp files that the captions belong to.',
  severalZips: 'That is more than one zip. Upload them one after the other; each becomes a dataset.',
  mixed: 'That is a zip together with other files. Upload either one zip, or images with .txt captions.',
  empty: (name) => `${name} is empty. Look at the file, then try again.`,
  unreadable: (name) => `${name} cannot be read from here. Look whether you may open it, then try again.`
})

export const ACCEPTED = '.zip,.png,.jpg,.jpeg,.webp,.txt'

const IMAGE = /\.(png|jpe?g|webp)$/i
const CAPTION = /\.txt$/i
const ZIP = /\.zip$/i
const CLUTTER = /(^|\/)(\.|__MACOSX|thumbs\.db$|desktop\.ini$)/i
const MAX_DEPTH = 8

/** A choice of files that cannot be a dataset; the message says why. */
export class UnusableFiles extends Error {}

/** Whether something dragged over the page brings files. */
export function bringsFiles(event) {
  return Array.from(event.dataTransfer?.types ?? []).includes('Files')
}

/**
 * The files of a drop, those in folders too: `{ path, file }` each. Must be called while the event is handled: what a
 * drop brought is taken away right after.
 */
export function droppedFiles(dataTransfer) {
  const items = Array.from(dataTransfer.items).filter((item) => item.kind === 'file')
  const entries = items.map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile())
  return collect(entries.filter(Boolean))
}

async function collect(entries) {
  const found = []
  for (const entry of entries) {
    if (entry instanceof File) found.push({ path: entry.name, file: entry })
    else await walk(entry, entry.name, found, 0)
  }
  return found
}

async function walk(entry, path, found, depth) {
  if (CLUTTER.test(path)) return
  const failed = () => {
    throw new UnusableFiles(TEXT.unreadable(path))
  }
  if (entry.isFile) {
    found.push({ path, file: await new Promise((done, fail) => entry.file(done, fail)).catch(failed) })
    return
  }
  if (depth >= MAX_DEPTH) return
  const reader = entry.createReader()
  for (;;) {
    // A reader hands out a folder in batches, and an empty one at its end.
    const batch = await new Promise((done, fail) => reader.readEntries(done, fail)).catch(failed)
    if (batch.length === 0) return
    for (const child of batch) await walk(child, `${path}/${child.name}`, found, depth + 1)
  }
}

/** The files of an `<input type="file">`, as `droppedFiles` gives them. */
export function pickedFiles(input) {
  return Array.from(input.files).map((file) => ({ path: file.webkitRelativePath || file.name, file }))
}

/**
 * What to send: `{ name, files: [{ name, file }], leftOut: [path] }`, where `name` names the dataset folder, "" for a
 * zip and for loose files. Throws `UnusableFiles`.
 */
export function chooseFiles(found) {
  const real = found.filter(({ path }) => !CLUTTER.test(path))
  const zips = real.filter(({ path }) => ZIP.test(path))
  const images = real.filter(({ path }) => IMAGE.test(path))
  const captions = real.filter(({ path }) => CAPTION.test(path))
  if (zips.length > 1) throw new UnusableFiles(TEXT.severalZips)
  if (zips.length && images.length + captions.length) throw new UnusableFiles(TEXT.mixed)
  if (zips.length) {
    const [{ path, file }] = zips
    if (!file.size) throw new UnusableFiles(TEXT.empty(path))
    return { name: '', files: [{ name: path.split('/').at(-1), file }], leftOut: pathsWithout(real, zips) }
  }
  if (!images.length) throw new UnusableFiles(captions.length ? TEXT.noImages : TEXT.nothing)
  const blank = images.find(({ file }) => !file.size)
  if (blank) throw new UnusableFiles(TEXT.empty(blank.path))
  const kept = [...images, ...captions]
  return { ...inOneFolder(kept, images), leftOut: pathsWithout(real, kept) }
}

function pathsWithout(all, kept) {
  return all.filter((item) => !kept.includes(item)).map(({ path }) => path)
}

/** Names below the folder that all files share. The dataset is called as what was dropped. */
function inOneFolder(kept, images) {
  const folders = kept.map(({ path }) => path.split('/').slice(0, -1))
  const shared = folders.reduce((one, other) => one.slice(0, sharedLength(one, other)))
  const below = ({ path }) => path.split('/').slice(shared.length)
  // A folder counts as a dataset by the images that lie in it, not by those in folders of it.
  const joint = images.some((item) => below(item).length === 1) ? '/' : '_'
  return { name: shared[0] ?? '', files: kept.map((item) => ({ name: below(item).join(joint), file: item.file })) }
}

function sharedLength(one, other) {
  const differs = one.findIndex((part, at) => part !== other[at])
  return differs < 0 ? one.length : differs
}
