// Where the nodes of the example workflows stand: [x, y, width, height]; a missing height is the node's own.
// Nodes that show text while they run are taller than they need to be. Notes have no inline code: Nodes 2.0 shows it
// unreadably. Keys are the node ids of the API graph in tests/workflows/. Groups enclose the nodes that they name.

const BLUE = '#5b9bc8'
const GREEN = '#7fb37f'
const ORANGE = '#d0925f'
const PURPLE = '#a17fc9'
const GREY = '#aaaaaa'

const TRAIN_NOTE = `## Train a LoRA from a zip

1. Put a zip of images into ComfyUI's **input** folder, each image with a **.txt** caption of the same name beside it. Press **R** and pick the zip in *Load Dataset*.
2. Choose a size in *Training Resolution*. Images are scaled and cropped to it, never enlarged.
3. Press **Run**. The LoRA appears in **output/loras** and, after **R**, in every LoRA loader.

The first run encodes the images and captions; later runs with the same data start training at once.

**Model files** (.safetensors)
- **models/diffusion_models**: ideogram4_fp8_scaled
- **models/text_encoders**: qwen3vl_8b_fp8_scaled
- **models/vae**: flux2-vae

Every other setting: connect *Ideogram 4 Train Settings* to the train node.`

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
      1: { at: [420, 300, 340] },
      2: { at: [420, 40, 340] },
      3: { at: [420, 194, 340] },
      4: { at: [0, 500, 350, 300] },
      5: { at: [420, 560, 340, 240] },
      6: { at: [840, 440, 320, 360] },
      7: { at: [1220, 286, 320, 514] },
      8: { at: [1620, 40, 340, 160] },
      9: { at: [1620, 250, 340, 550] }
    },
    groups: [
      { title: '1. Model files', around: ['1', '2', '3'], color: BLUE },
      { title: '2. Images and captions', around: ['4', '5'], color: GREEN },
      { title: '3. Encode once', around: ['6'], color: ORANGE },
      { title: '4. Train', around: ['7'], color: ORANGE },
      { title: '5. LoRA files, loss curve', around: ['8', '9'], color: PURPLE }
    ],
    notes: [{ at: [-20, 20, 370, 382], text: TRAIN_NOTE }]
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
