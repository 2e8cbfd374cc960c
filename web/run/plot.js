// Numbers of the loss chart: ranges, ticks, and lines in no more points than there are pixels. Pure.

const MIN_STEPS_SHOWN = 10
const RAW_QUANTILE = 0.005
const PADDING = 0.06

/**
 * The steps and the values that are shown, as { steps: [0, last], values: [low, high] }.
 *
 * `lines` are arrays of numbers and nulls. Single steps jump, so the highest and lowest half percent of `noisy` (the
 * raw loss) may lie outside; the others lie inside whole. Values that a logarithm does not know are left out there.
 */
export function chartRange(lastStep, noisy, lines, log) {
  const known = (values) => values.filter((value) => value !== null && (!log || value > 0))
  const ends = known(lines.flat())
  const raw = Float64Array.from(known(noisy)).sort()
  if (raw.length) {
    const cut = Math.floor(raw.length * RAW_QUANTILE)
    ends.push(raw[cut], raw[raw.length - 1 - cut])
  }
  let low = Infinity
  let high = -Infinity
  for (const value of ends) {
    if (value < low) low = value
    if (value > high) high = value
  }
  if (low > high) [low, high] = log ? [0.1, 1] : [0, 1]
  const steps = [0, Math.max(lastStep, MIN_STEPS_SHOWN)]
  if (log) {
    const air = Math.max((high / low) ** PADDING, 1.02)
    return { steps, values: [low / air, high * air] }
  }
  const air = Math.max((high - low) * PADDING, Math.abs(high) * 0.01, 1e-6)
  return { steps, values: [Math.max(low - air, low >= 0 ? 0 : -Infinity), high + air] }
}

/** A function from a value in `domain` to a place in `range`. */
export function scale(domain, range, log = false) {
  const of = log ? Math.log : (value) => value
  const [from, to] = domain.map(of)
  const factor = to === from ? 0 : (range[1] - range[0]) / (to - from)
  return (value) => range[0] + (of(value) - from) * factor
}

/** Round numbers inside `[low, high]`, about `count` of them. */
export function ticks([low, high], count, log = false) {
  if (log && high / low >= 10) {
    const found = []
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      for (const digit of high / low > 10 ** count ? [1] : [1, 2, 5]) found.push(digit * 10 ** power)
    }
    return found.filter((value) => value >= low && value <= high)
  }
  const rough = (high - low) / count
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = power * ([1, 2, 2.5, 5].find((digit) => digit * power >= rough) ?? 10)
  const found = []
  for (let index = Math.ceil(low / step); index * step <= high; index += 1) found.push(Number((index * step).toPrecision(12)))
  return found
}

/**
 * The `d` of an SVG path through `points` ({ step, ... }, ascending) at the heights `value(point)`; null interrupts it.
 *
 * Where several points fall on one column of pixels only the lowest and the highest of them are drawn, in the order in
 * which they came: the picture is the same, and it does not grow with the run.
 */
export function linePath(points, value, toX, toY) {
  const parts = []
  let column = null
  let pen = false
  const draw = (x, y) => {
    parts.push(pen ? 'L' : 'M', x.toFixed(1), ' ', y.toFixed(1))
    pen = true
  }
  const flush = () => {
    if (!column) return
    const { first, second } = column
    draw(first.x, first.y)
    if (second !== first) draw(second.x, second.y)
    column = null
  }
  for (const point of points) {
    const height = value(point)
    if (height === null) {
      flush()
      pen = false
      continue
    }
    const x = toX(point.step)
    const place = { x, y: toY(height), key: Math.round(x) }
    if (column?.key !== place.key) {
      flush()
      column = { key: place.key, low: place, high: place, first: place, second: place }
      continue
    }
    if (place.y < column.low.y) column.low = place
    else if (place.y > column.high.y) column.high = place
    const lowFirst = column.low.x <= column.high.x
    column.first = lowFirst ? column.low : column.high
    column.second = lowFirst ? column.high : column.low
  }
  flush()
  return parts.join('')
}

/** Those of the ascending `places` that are at least `gap` apart from the one before, and the last one. */
export function spread(items, place, gap) {
  const kept = []
  for (const item of items) {
    if (!kept.length || place(item) - place(kept.at(-1)) >= gap) kept.push(item)
  }
  if (items.length && kept.at(-1) !== items.at(-1)) kept[kept.length - 1] = items.at(-1)
  return kept
}
