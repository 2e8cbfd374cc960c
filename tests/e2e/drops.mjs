// Files dropped on a page as by a person: with real paths, so that folders come as folders.

/** Drop the files and folders at `paths` on the middle of what `selector` matches, or on `{ x, y }`. */
export async function dropFiles(page, place, paths) {
  const { x, y } = typeof place === 'string' ? await middle(page, place) : place
  const session = await page.context().newCDPSession(page)
  const data = { items: [], files: paths, dragOperationsMask: 1 }
  for (const type of ['dragEnter', 'dragOver', 'dragOver', 'drop']) {
    await session.send('Input.dispatchDragEvent', { type, x, y, data })
    await page.waitForTimeout(50)
  }
  await session.detach()
}

async function middle(page, selector) {
  const box = await page.locator(selector).boundingBox()
  return { x: box.x + box.width / 2, y: box.y + box.height / 2 }
}
