// Elements without a framework, and the sizes that widgets of the graph need.

/**
 * A new element: `el('button', { class: 'i4-button', onclick: go, 'aria-label': 'Go' }, 'Go', child)`.
 * `on...` functions become listeners, `true` an empty attribute; null, undefined and false are left out.
 * Text is always text: nothing is parsed as HTML.
 */
export function el(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children)
}

/** As `el`, for SVG. */
export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), properties, children)
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue
    if (typeof value === 'function') element.addEventListener(name.slice(2), value)
    else element.setAttribute(name, value === true ? '' : value)
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false))
  return element
}

/** Load a stylesheet that lies beside the module at `moduleUrl`, once. */
export function loadStyles(name, moduleUrl) {
  const href = new URL(name, moduleUrl).href
  if (document.querySelector(`link[href="${href}"]`)) return
  document.head.append(el('link', { rel: 'stylesheet', href }))
}

/** `1.4 GB`, `23 MB`, `312 KB`. */
export function formatBytes(bytes) {
  const units = ['B', 'KB', 'MB', 'GB', 'TB']
  let power = 0
  while (bytes >= 1000 ** (power + 1) && power < units.length - 1) power += 1
  const value = bytes / 1000 ** power
  return `${value < 10 && power > 1 ? value.toFixed(1) : Math.round(value)} ${units[power]}`
}

/** `4 s`, `3 min 05 s`, `2 h 07 min`. */
export function formatDuration(seconds) {
  const whole = Math.round(seconds)
  const two = (number) => String(number).padStart(2, '0')
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`
  return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`
}
