// How a program calls this very ComfyUI.

import { el } from '../lib/dom.js'
import { translated } from '../lib/i18n.js'
import { copyButton } from './copy.js'

const TEXT = await translated('http_api/example', {
  title: 'From a program',
  encrypted:
    'fal\'s clients speak https only. Start ComfyUI with --tls-keyfile and --tls-certfile, or put a proxy in front.',
  manual: 'All routes and examples'
})
/** Where the README's links to docs/ lead. */
const MANUAL = 'https://github.com/ideogram4-lora-trainer/ideogram4-lora-trainer/blob/main/docs/http-api.md'

/** `{ element, show(addresses) }`; the addresses are those of the server's answer. */
export function createExample() {
  const code = el('pre', { tabindex: '0', role: 'region', 'aria-label': TEXT.title })
  const encrypted = el('p', { class: 'i4-quiet', hidden: true }, TEXT.encrypted)
  const element = el(
    'section',
    {},
    el('h4', {}, TEXT.title),
    el('div', { class: 'i4-api-code' }, code, copyButton(() => code.textContent, code)),
    encrypted,
    el('p', {}, el('a', { href: MANUAL, target: '_blank', rel: 'noopener noreferrer' }, TEXT.manual))
  )
  return {
    element,
    show(addresses) {
      code.textContent = commands(addresses)
      encrypted.hidden = addresses.base.startsWith('https:')
    }
  }
}

function commands(addresses) {
  return [
    '# fal\'s client',
    'export FAL_KEY=...',
    `export FAL_RUN_HOST=${addresses.fal_run_host}`,
    `export FAL_QUEUE_RUN_HOST=${addresses.fal_queue_run_host}`,
    'python -c \'import fal_client; print(fal_client.subscribe(',
    '    "ideogram/v4/trainer", {"images_data_url": "https://.../dataset.zip"}))\'',
    '',
    '# Ideogram\'s routes',
    `curl -H "Api-Key: $FAL_KEY" ${addresses.ideogram}/datasets`
  ].join('\n')
}
