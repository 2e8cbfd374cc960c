// Where the nodes of the example workflows stand: [x, y, width, height]; a missing height is the node's own.
// Nodes that show text while they run are taller than they need to be. Notes have no inline code: Nodes 2.0 shows it
// unreadably. Keys are the node ids of the API graph in example_workflows/api/. Groups enclose the nodes that they name.

const BLUE = '#5b9bc8'
const GREEN = '#7fb37f'
const ORANGE = '#d0925f'
const PURPLE = '#a17fc9'
const GREY = '#aaaaaa'

const TRAIN_NOTE = `## Train a LoRA from a zip

1. Drop a zip of images onto *Load Dataset*, each image with a **.txt** caption of the same name beside it.
2. Choose a size in *Training Resolution*. Images are scaled and cropped to it, never enlarged.
3. Press **Run**. The LoRA appears in **output/loras** and, after **R**, in every LoRA loader.

The first run encodes the images and captions; later runs with the same data start training at once.

**Model files** (.safetensors)
- **models/diffusion_models**: ideogram4_fp8_scaled
- **models/text_encoders**: qwen3vl_8b_fp8_scaled
- **models/vae**: flux2-vae

Every other setting: connect *Ideogram 4 Train Settings* to the train node.`

const WATCH_NOTE = `## Train a LoRA and watch it

1. Drop a zip of images onto *Load Dataset*, each image with a **.txt** caption of the same name beside it; or drop images and .txt files. Click an image to read and correct its caption.
2. Choose a size in *Training Resolution*; the sheet shows what is cropped away.
3. Write a few prompts in *Previews*, worded like your captions.
4. Press **Run**. *Train LoRA* shows the loss and the pictures as they come. **Stop and keep** ends the run early; *Cancel* saves as well.
5. The LoRA appears in **output/loras** and, after **R**, in every LoRA loader.

**Model files** (.safetensors)
- **models/diffusion_models**: ideogram4_fp8_scaled, ideogram4_unconditional_fp8_scaled (only for previews)
- **models/text_encoders**: qwen3vl_8b_fp8_scaled
- **models/vae**: flux2-vae

Every other setting: connect *Ideogram 4 Train Settings* to the train node.`

const COMPARE_NOTE = `## Compare a LoRA with the base model

1. Pick your LoRA in *Compare LoRA* (press **R** if it is new), or a run whose checkpoints you want to see, or both.
2. Write a few prompts in *Previews*, one a line: one worded like your captions, and one that has nothing to do with them.
3. Press **Run**. Each row is a prompt, each column a strength, all with the same seed.`

const TWO_MODELS = `**Model files** (.safetensors): in **models/diffusion_models** ideogram4_fp8_scaled and ideogram4_unconditional_fp8_scaled; in **models/text_encoders** qwen3vl_8b_fp8_scaled; in **models/vae** flux2-vae. The LoRA belongs on the first model only; the unconditional one serves guidance.`

const TEXT_NOTE = `## Text to image with a LoRA

1. Pick your LoRA in *Load LoRA* (press **R** if it is new). Strength 1 is what was trained.
2. Write the prompt in the *JSON prompt* box, worded like the captions you trained on. It reaches *CLIP Text Encode* through a link, because text typed there loses its braces.
3. Set the same size in *Scheduler* and *Latent*, then press **Run**.

${TWO_MODELS}`

const IMAGE_NOTE = `## Image to image with up to three LoRAs

1. Load a picture, and pick a LoRA in *LoRA 1*. *LoRA 2* and *LoRA 3* are bypassed: select one and press **Ctrl+B** to use it.
2. Write the prompt in the *JSON prompt* box.
3. *How much changes* is the share of the noise schedule that is run: near 0 keeps the picture, 1 ignores it. Keep the size in *Scale and crop* and *Scheduler* the same. Then press **Run**.

${TWO_MODELS}`

export const LAYOUTS = [
  {
    api: 'train_from_zip',
    file: 'Train a LoRA from a zip',
    id: '1d0a7e2c-4f0b-4a63-9d0e-000000000001',
    nodes: {
      1: { at: [500, 300, 340] },
      2: { at: [500, 40, 340] },
      3: { at: [500, 194, 340] },
      4: { at: [0, 520, 420, 660] },
      5: { at: [500, 560, 340, 280] },
      6: { at: [920, 440, 320, 400] },
      7: { at: [1320, 40, 460, 1140] },
      8: { at: [1860, 40, 360, 380] },
      9: { at: [1860, 500, 360, 340] }
    },
    groups: [
      { title: '1. Model files', around: ['1', '2', '3'], color: BLUE },
      { title: '2. Images and captions', around: ['4', '5'], color: GREEN },
      { title: '3. Encode once', around: ['6'], color: ORANGE },
      { title: '4. Train', around: ['7'], color: ORANGE },
      { title: '5. LoRA files, loss curve', around: ['8', '9'], color: PURPLE }
    ],
    notes: [{ at: [-20, 0, 440, 420], text: TRAIN_NOTE }]
  },
  {
    api: 'train_and_watch',
    file: 'Train a LoRA and watch it',
    id: '1d0a7e2c-4f0b-4a63-9d0e-000000000004',
    nodes: {
      1: { at: [520, 40, 340], title: 'Conditional model (trained)' },
      11: { at: [520, 190, 340], title: 'Unconditional model (previews)' },
      2: { at: [520, 340, 340] },
      3: { at: [520, 510, 340] },
      4: { at: [0, 720, 440, 660] },
      5: { at: [520, 720, 340, 260] },
      6: { at: [520, 1080, 340, 300] },
      10: { at: [940, 40, 360, 460] },
      7: { at: [1380, 40, 500, 1340] },
      8: { at: [1960, 40, 380, 420] }
    },
    groups: [
      { title: '1. Model files', around: ['1', '11', '2', '3'], color: BLUE },
      { title: '2. Images and captions', around: ['4'], color: GREEN },
      { title: '3. Size, encode once', around: ['5', '6'], color: ORANGE },
      { title: '4. Previews', around: ['10'], color: GREEN },
      { title: '5. Train', around: ['7'], color: ORANGE },
      { title: '6. LoRA files', around: ['8'], color: PURPLE }
    ],
    notes: [{ at: [-20, 0, 460, 600], text: WATCH_NOTE }]
  },
  {
    api: 'compare_lora',
    file: 'Compare a LoRA with the base model',
    id: '1d0a7e2c-4f0b-4a63-9d0e-000000000005',
    nodes: {
      1: { at: [0, 40, 340], title: 'Conditional model' },
      11: { at: [0, 190, 340], title: 'Unconditional model (guidance)' },
      2: { at: [0, 340, 340] },
      3: { at: [0, 510, 340] },
      10: { at: [420, 40, 360, 530] },
      12: { at: [860, 40, 620, 530] },
      13: { at: [1560, 40, 620, 530] }
    },
    groups: [
      { title: '1. Model files', around: ['1', '11', '2', '3'], color: BLUE },
      { title: '2. Prompts', around: ['10'], color: GREEN },
      { title: '3. Compare', around: ['12'], color: ORANGE },
      { title: '4. Save', around: ['13'], color: PURPLE }
    ],
    notes: [{ at: [-20, -220, 1120, 140], text: `${COMPARE_NOTE}` }]
  },
  {
    api: 'text_to_image',
    file: 'Text to image with a LoRA',
    id: '1d0a7e2c-4f0b-4a63-9d0e-000000000002',
    nodes: {
      1: { at: [0, 40, 340], title: 'Conditional model' },
      10: { at: [0, 200, 340], title: 'Unconditional model (guidance)' },
      2: { at: [0, 330, 340] },
      3: { at: [0, 484, 340] },
      4: { at: [420, 40, 310, 150] },
      13: { at: [790, 40, 290, 150], title: 'CFG 3 for the last 30 %' },
      11: { at: [420, 395, 310, 271], title: 'JSON prompt' },
      12: { at: [790, 305, 290, 100] },
      17: { at: [1160, -160, 290] },
      16: { at: [1160, -30, 290] },
      14: { at: [1160, 170, 290] },
      15: { at: [1160, 355, 290] },
      5: { at: [1160, 560, 290] },
      18: { at: [1530, -160, 240] },
      19: { at: [1530, 0, 240] },
      20: { at: [1830, -160, 420, 826] }
    },
    groups: [
      { title: '1. Model files', around: ['1', '10', '2', '3'], color: BLUE },
      { title: '2. LoRA', around: ['4', '13'], color: ORANGE },
      { title: '3. Prompt', around: ['11', '12'], color: GREEN },
      { title: '4. Sampling', around: ['14', '17', '16', '15', '5'], color: GREY },
      { title: '5. Image', around: ['18', '19', '20'], color: PURPLE }
    ],
    notes: [{ at: [-20, -210, 1120, 130], text: TEXT_NOTE }]
  },
  {
    api: 'image_to_image',
    file: 'Image to image with LoRAs',
    id: '1d0a7e2c-4f0b-4a63-9d0e-000000000003',
    nodes: {
      1: { at: [0, 40, 340], title: 'Conditional model' },
      10: { at: [0, 200, 340], title: 'Unconditional model (guidance)' },
      2: { at: [0, 330, 340] },
      3: { at: [0, 484, 340] },
      4: { at: [420, 40, 300, 150], title: 'LoRA 1' },
      5: { at: [420, 240, 300, 150], title: 'LoRA 2 (bypassed)', bypassed: true },
      6: { at: [420, 440, 300, 150], title: 'LoRA 3 (bypassed)', bypassed: true },
      11: { at: [800, 40, 280, 185], title: 'JSON prompt' },
      12: { at: [800, 275, 280, 90] },
      13: { at: [800, 480, 280, 110], title: 'CFG 3 for the last 30 %' },
      7: { at: [0, 730, 340, 330] },
      8: { at: [420, 730, 300], title: 'Scale and crop' },
      9: { at: [800, 730, 280] },
      17: { at: [1160, -160, 290] },
      16: { at: [1160, -30, 290] },
      14: { at: [1160, 170, 290] },
      15: { at: [1160, 355, 290] },
      21: { at: [1160, 560, 290], title: 'How much changes' },
      18: { at: [1530, -160, 240] },
      19: { at: [1530, 0, 240] },
      20: { at: [1830, -160, 560, 798] }
    },
    groups: [
      { title: '1. Model files', around: ['1', '10', '2', '3'], color: BLUE },
      { title: '2. LoRAs', around: ['4', '5', '6'], color: ORANGE },
      { title: '3. Prompt', around: ['11', '12'], color: GREEN },
      { title: 'Guidance', around: ['13'], color: GREY },
      { title: '4. Start image', around: ['7', '8', '9'], color: BLUE },
      { title: '5. Sampling', around: ['14', '17', '16', '15', '21'], color: GREY },
      { title: '6. Image', around: ['18', '19', '20'], color: PURPLE }
    ],
    notes: [{ at: [-20, -210, 1120, 130], text: IMAGE_NOTE }]
  }
]
