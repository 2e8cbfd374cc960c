// What a user may want to set once: the section "Ideogram 4 LoRA Trainer" in ComfyUI's settings.

import { app } from '../../../scripts/app.js'

import { createApiPanel } from '../http_api/panel.js'

const SECTION = 'Ideogram 4 LoRA Trainer'
const PREFIX = 'Ideogram4LoraTrainer.'

export const SETTINGS = [
  {
    id: `${PREFIX}Card`,
    category: [SECTION, 'Presets', 'Card'],
    name: 'Graphics card for presets',
    tooltip: 'What presets are made for: this computer as it is, or a card that you choose, in GB.',
    type: 'combo',
    options: ['this computer', '8', '12', '16', '24', '32'],
    defaultValue: 'this computer'
  },
  {
    id: `${PREFIX}LogScale`,
    category: [SECTION, 'Runs', 'LogScale'],
    name: 'Loss charts begin with a logarithmic scale',
    tooltip: 'For train nodes that are opened from now on. The button on the chart still switches.',
    type: 'boolean',
    defaultValue: false
  },
  {
    id: `${PREFIX}Toasts`,
    category: [SECTION, 'Runs', 'Toasts'],
    name: 'Messages when a run needs attention',
    tooltip: 'In a corner of the page, when a run stops by an error or makes no more previews. The node says so too.',
    type: 'boolean',
    defaultValue: true
  },
  {
    // Its values are not ComfyUI's to keep: what it keeps of settings, it sends to every page.
    id: `${PREFIX}HttpApi`,
    category: [SECTION, 'HTTP API', 'HttpApi'],
    name: 'Programs made for fal or Ideogram may train and make images here',
    tooltip: 'In ComfyUI\'s own queue, with your model files. Every call needs the key.',
    type: createApiPanel,
    defaultValue: null
  }
]

/** The value of a setting by the last part of its id, `Card`; its default where ComfyUI does not know it. */
export function setting(name) {
  const id = PREFIX + name
  return app.extensionManager?.setting?.get(id) ?? SETTINGS.find((one) => one.id === id).defaultValue
}
