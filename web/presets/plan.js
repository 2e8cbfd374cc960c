// What a preset sets, and why. Pure. Presets are starting points: they fill widgets, which then hold plain values.

import { translated } from '../lib/i18n.js'

const TEXT = await translated('presets/plan', {
  steps: {
    counted: (views, count, times) => `Each of ${count} images is seen about ${times} times; ${views}`,
    unknown: (views) => `The number of images is not known here; ${views}`
  },
  views: {
    style: 'a look is learned soon, from many different pictures, and more would copy what is in them.',
    character: 'a face has many details that must always be right, and a low learning rate needs more steps.',
    object: 'a thing that keeps its shape is learned in fewer steps than a face.'
  },
  learning_rate: {
    style: 'The upper end of what is in use for this model: many different pictures can take it.',
    character: 'The lower end of what is in use for this model: pictures that are much alike are copied less.',
    object: 'The upper end of what is in use for this model.'
  },
  rank: {
    style: 'A look changes colours, light and lines at once: the usual capacity.',
    character: 'The usual capacity.',
    object: 'One thing needs little capacity, and a small LoRA keeps less of the backgrounds.',
    card: 'A smaller LoRA leaves more of a small card to the weights.'
  },
  resolution: {
    whole: (size) => `The largest size that fits every image, ${size}, is fine for this card.`,
    smaller: (size, why) => `Your images allow ${size}. ${why}`,
    because: {
      8: 'About 768x768 has half the pixels of 1024x1024, which is predicted to fit too.',
      12: 'About 1024x1024 is predicted to keep all weights of an fp8 model on the card.',
      16: 'About 1024x1024 is predicted to keep everything on the card with an fp8 model.',
      24: 'About 1536x1024 is predicted to keep everything on the card with an fp8 model.'
    }
  },
  batch_size: 'One image at a time needs the least memory, and captions need no padding.',
  memory_mode: 'Takes the fastest way that fits this card. A mode that is named leaves free memory unused.'
})

/** `views`: how often each image should be seen; `steps`: the range for that, and the choice without a number. */
export const GOALS = {
  style: { views: 40, steps: [800, 2500, 1000], learning_rate: 1e-4, rank: 32 },
  character: { views: 120, steps: [1000, 3000, 1500], learning_rate: 5e-5, rank: 32 },
  object: { views: 60, steps: [600, 2000, 1000], learning_rate: 1e-4, rank: 16 }
}

/** By GB of the card: most pixels that are worth it, and the highest rank. */
export const CARDS = {
  8: { pixels: 768 * 768, rank: 16 },
  12: { pixels: 1024 * 1024, rank: 512 },
  16: { pixels: 1024 * 1024, rank: 512 },
  24: { pixels: 1536 * 1024, rank: 512 },
  32: { pixels: 1920 * 1088, rank: 512 }
}
const MIN_SIDE = 256
const STEP_ROUNDING = 50

/**
 * What is set for a goal and a card: [{ node: 'train' | 'resolution' | 'settings', values: { widget: value }, why }].
 * `data` is { count, width, height }: how many images there are, and the largest size that fits all; null where unknown.
 */
export function plan(goal, card, data) {
  const { learning_rate, rank } = GOALS[goal]
  const limit = CARDS[card]
  const smallRank = rank > limit.rank
  return [
    { node: 'train', values: { steps: stepsFor(goal, data?.count) }, why: stepsReason(goal, data?.count) },
    { node: 'train', values: { learning_rate }, why: TEXT.learning_rate[goal] },
    {
      node: 'train',
      values: { rank: Math.min(rank, limit.rank) },
      why: smallRank ? TEXT.rank.card : TEXT.rank[goal]
    },
    ...(data && Math.min(data.width, data.height) >= MIN_SIDE ? [resolutionFor(card, data)] : []),
    { node: 'settings', values: { batch_size: 1 }, why: TEXT.batch_size },
    { node: 'settings', values: { memory_mode: 'auto' }, why: TEXT.memory_mode }
  ]
}

function stepsFor(goal, count) {
  const { views, steps: [least, most, usual] } = GOALS[goal]
  if (!count) return usual
  return Math.min(most, Math.max(least, Math.round((count * views) / STEP_ROUNDING) * STEP_ROUNDING))
}

function stepsReason(goal, count) {
  const views = TEXT.views[goal]
  return count ? TEXT.steps.counted(views, count, Math.round(stepsFor(goal, count) / count)) : TEXT.steps.unknown(views)
}

function resolutionFor(card, { width, height }) {
  const size = `${width}x${height}`
  const smaller = smallerSize(width, height, CARDS[card].pixels)
  if (!smaller) return { node: 'resolution', values: { resolution: 'auto' }, why: TEXT.resolution.whole(size) }
  return {
    node: 'resolution',
    values: { resolution: 'custom', custom: smaller.join('x') },
    why: TEXT.resolution.smaller(size, TEXT.resolution.because[card])
  }
}

/** A size of about the same shape in multiples of 16 with at most `pixels`; null where the given one is small enough. */
export function smallerSize(width, height, pixels) {
  if (width * height <= pixels) return null
  const scale = Math.sqrt(pixels / (width * height))
  const sides = [width, height].map((side) => Math.max(MIN_SIDE, Math.floor((side * scale) / 16) * 16))
  return sides[0] * sides[1] <= pixels ? sides : null
}

/** nvfp4, fp8 or bf16 by the name of a model file, as far as it tells; int8 takes as much as fp8. */
export function formatOf(fileName) {
  const name = String(fileName ?? '').toLowerCase()
  if (/nvfp4|mxfp4|fp4/.test(name)) return 'nvfp4'
  if (/bf16|fp16/.test(name)) return 'bf16'
  return 'fp8'
}

/** The entry of the table for at least this size and rank: { mode, gib, resident }; null beyond the table. */
export function predict(table, { base, pixels, rank, card }) {
  const fitting = table.filter((entry) => entry.base === base && entry.pixels >= pixels && entry.rank >= rank)
  fitting.sort((one, other) => one.pixels - other.pixels || one.rank - other.rank)
  return fitting[0]?.plans[card] ?? null
}

/** The card of the list that a device with so much memory is: the largest that is not larger. */
export function cardFor(bytes) {
  const gigabytes = bytes / 2 ** 30 + 0.7 // the driver keeps some of it to itself
  return Object.keys(CARDS).map(Number).filter((card) => card <= gigabytes).at(-1) ?? null
}

/** Values for people: `880x656` instead of what two widgets hold for it. */
export function shown(values) {
  if (values.resolution === 'custom') return values.custom
  return String(Object.values(values)[0])
}
