// Everything that the pack adds to ComfyUI's page: a panel on some of its nodes. No build step, no global state.

import { app } from '../../scripts/app.js'

import { addDatasetPanel } from './dataset/panel.js'
import { loadStyles } from './lib/dom.js'
import { SETTINGS } from './lib/settings.js'
import { presetsBar } from './presets/panel.js'
import { addRunPanel } from './run/panel.js'
import { addSavedFiles, showFilesOfLastRun, showKeptFiles } from './save/panel.js'

/** What is added to a new node, by its class: functions that are called once for a node, with the node. */
const PANELS = {
  Ideogram4LoadDataset: [addDatasetPanel],
  Ideogram4SaveLoRA: [addSavedFiles],
  Ideogram4TrainLoRA: [(node) => addRunPanel(node, presetsBar(node))]
}

app.registerExtension({
  name: 'ideogram4.lora_trainer',
  settings: SETTINGS,
  setup() {
    loadStyles('style.css', import.meta.url)
  },
  nodeCreated(node) {
    for (const add of PANELS[node.comfyClass] ?? []) add(node)
  },
  onNodeOutputsUpdated(outputs) {
    showKeptFiles(outputs)
  },
  afterConfigureGraph() {
    showFilesOfLastRun()
  }
})
