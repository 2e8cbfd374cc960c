// The server's datasets: their sheets, pictures and captions.

import { getJson, postJson, routeUrl } from '../lib/api.js'

export const PAGE = 200

/** The id of the dataset that the node's list calls `name`, null where there is none. */
export async function findDataset(name, signal) {
  const { datasets } = await getJson('/datasets', { signal })
  return datasets.find((dataset) => dataset.name === name)?.id ?? null
}

/** A page of the sheet. `wishes` are resolution, default_caption and force_default_caption. */
export function readSheet(id, wishes, first, count, signal) {
  return postJson(`/datasets/${id}/sheet`, { ...wishes, first, count }, { signal })
}

export function readItem(id, index, version, signal) {
  return getJson(`/datasets/${id}/items/${index}?version=${encodeURIComponent(version)}`, { signal })
}

/** `caption` null takes a correction back. `was` is the caption that it replaces. */
export function writeCaption(id, index, { version, caption, was }) {
  return postJson(`/datasets/${id}/items/${index}/caption`, { version, caption, was })
}

/** `size` is thumb or large. */
export function imageUrl(id, index, version, size) {
  return routeUrl(`/datasets/${id}/items/${index}/image?version=${encodeURIComponent(version)}&size=${size}`)
}
