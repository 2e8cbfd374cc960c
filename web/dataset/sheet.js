// What is known of a dataset: its images, page by page. Values only; nothing is drawn or asked for here.

/** The sheet of which `page` is the first. */
export function beginSheet(page) {
  return withPage({ items: [] }, page)
}

/** `sheet` with the images of another page, or with newer words about images that it has. */
export function withPage(sheet, page) {
  const items = [...sheet.items]
  for (const item of page.items) items[item.index] = item
  const { name, version, report, total, resolution, problem, pending = false } = page
  return { name, version, report, total, resolution, problem, pending, items }
}

/** How many images are known so far, from the first on. */
export function knownCount(sheet) {
  return sheet.items.length
}

export function needsAttention(item) {
  return item.marks.length > 0
}

export function attentionCount(sheet) {
  return sheet.items.filter(needsAttention).length
}

/** The images to show, in order. */
export function shownItems(sheet, onlyMarked) {
  return onlyMarked ? sheet.items.filter(needsAttention) : sheet.items
}

/** The image `step` places after that of `index` among those shown; null beyond the ends. */
export function neighbour(sheet, onlyMarked, index, step) {
  const shown = shownItems(sheet, onlyMarked)
  const here = shown.findIndex((item) => item.index === index)
  if (here >= 0) return shown[here + step] ?? null
  // It was corrected meanwhile and is not among them any more.
  return (step > 0 ? shown.find((item) => item.index > index) : shown.findLast((item) => item.index < index)) ?? null
}

/** The image called `name`, null where there is none. */
export function itemNamed(sheet, name) {
  return sheet.items.find((item) => item.name === name) ?? null
}
