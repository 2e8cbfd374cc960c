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

/** What the ids of the example workflows begin with. */
const EXAMPLE_IDS = '1d0a7e2c-4f0b-4a63-9d0e-'

app.registerExtension({
  name: 'ideogram4.lora_trainer',
  settings: SETTINGS,
  setup() {
    loadStyles('style.css', import.meta.url)
  },
  beforeConfigureGraph(graph) {
    // Everybody who opens an example gets its id; runs and files belong to a workflow by its id.
    if (String(graph?.id).startsWith(EXAMPLE_IDS)) graph.id = window.LiteGraph.uuidv4()
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
