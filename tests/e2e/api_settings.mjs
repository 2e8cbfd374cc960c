// Turns the HTTP API on and off in ComfyUI's settings. Started by test_api_settings_in_browser.py. Input on stdin:
// { url, route, model, folder }: `route` is asked as a client would, `model` is a VAE file to choose. Output:
// { key, statuses, focused, copied, chosen, again, storage, graph, errors }: the key that was made; the answers before,
// without a key, with it, and after turning off; what had the focus; what the copy button copied; whether a chosen file
// is still chosen when the settings are opened again; the page's text then; what the page stores and would save.
// With `folder`, pictures are left there.

import { join } from 'node:path'

import { readInput, withFrontend } from './frontend.mjs'

const { url, route, model, folder } = await readInput()
const PANEL = '.i4-api'

async function ask(key) {
  const headers = key ? { Authorization: `Key ${key}` } : {}
  return (await fetch(url + route, { headers })).status
}

async function open(page) {
  await page.evaluate(() => window.app.extensionManager.command.execute('Comfy.ShowSettingsDialog'))
  await page.getByText('Ideogram 4 LoRA Trainer').first().click()
  await page.locator(`${PANEL}[data-on]`).waitFor()
}

async function picture(page, name) {
  if (folder) await page.screenshot({ path: join(folder, `${name}.png`) })
}

const told = await withFrontend(url, {}, async (page) => {
  const errors = []
  page.on('pageerror', (error) => errors.push(error.message))
  await page.context().grantPermissions(['clipboard-read', 'clipboard-write'])
  const panel = page.locator(PANEL)
  const button = (name) => panel.getByRole('button', { name, exact: true })
  const vae = panel.getByLabel('VAE')

  await open(page)
  await picture(page, 'off')
  const statuses = [await ask()]
  await button('New key').press('Enter')
  const shown = panel.getByLabel('Your new key')
  await shown.waitFor()
  const key = await shown.inputValue()
  const focused = await page.evaluate(() => document.activeElement.value)
  await button('Copy').first().click()
  await button('Copied').waitFor()
  const copied = await page.evaluate(() => navigator.clipboard.readText())
  statuses.push(await ask(), await ask(key))
  await picture(page, 'on')
  await vae.selectOption(model)
  await panel.getByText('Saved.').waitFor()

  await page.keyboard.press('Escape')
  await panel.waitFor({ state: 'detached' })
  await open(page)
  const again = await panel.evaluate((element) => element.innerHTML + [...element.querySelectorAll('input')].map(({ value }) => value))
  const chosen = await vae.inputValue()
  await vae.selectOption('')
  await panel.getByText('Saved.').waitFor()
  await button('Turn off').click()
  await panel.locator('xpath=self::*[@data-on="false"]').waitFor()
  statuses.push(await ask(key))
  const storage = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]))
  const graph = await page.evaluate(() => JSON.stringify(window.app.graph.serialize()))
  return { key, statuses, focused, copied, chosen, again, storage, graph, errors }
})
process.stdout.write(JSON.stringify(told))
