// Chinese texts of the modules, by their names: see lib/i18n.js. Terms are those of docs/translation.md.

import dataset from './dataset.js'
import httpApi from './http_api.js'
import run from './run.js'

export default {
  ...dataset,
  ...httpApi,
  ...run,
  'save/panel': {
    label: '已保存的文件',
    folder: (path) => `位于 ${path}`,
    link: (name) => `下载 ${name}`,
    purpose: {
      comfy: '用于 ComfyUI 和 diffusers',
      fal: '用于 fal 和 diffusers',
      diffusers: '用于 diffusers，q、k、v 分开',
      config: '训练时的设置和数据'
    }
  },
  'presets/panel': {
    label: '预设',
    button: '预设…',
    hint: '按训练目标和显卡填写步数、学习率、秩和分辨率。',
    done: (rows) => `已设置 ${rows.join('，')}。`
  },
  'presets/dialog': {
    title: '预设',
    intro: '预设只填写一次工作流中的参数。按“应用”之前什么都不会改变，之后每个值都可以再修改。',
    goal: '要训练什么？',
    goals: { style: '画风', character: '角色', object: '物体' },
    card: '显卡',
    cards: (size, last) => (last ? `${size} GB 及以上` : `${size} GB`),
    found: '本机',
    columns: ['设置', '参数', '当前', '预设', '原因'],
    states: { same: '不变', linked: '由连线传入' },
    absent: { settings: '默认', resolution: '没有相应节点' },
    noData: '请先选择数据集，预设才能考虑图像的尺寸和数量。',
    prediction: ({ base, card, size, rank, mode, gib, resident }) =>
      `预测：${base}，${size}，秩 ${rank}，${card} GB 显卡：${mode}，${gib} GiB，` +
      (resident < 1 ? `${Math.round(resident * 100)} % 的权重留在显卡上。` : '全部权重都在显卡上。'),
    noPrediction: '这些参数没有预测值。',
    honest: '这些是同类模型常用的起点，显存为预测值，都没有在您的图像上测量过。',
    apply: '应用',
    cancel: '取消',
    set: (name) => `设置 ${name}`
  },
  'presets/plan': {
    steps: {
      counted: (views, count, times) => `${count} 张图像每张约被看到 ${times} 次；${views}`,
      unknown: (views) => `这里不知道图像的数量；${views}`
    },
    views: {
      style: '画风可以从许多不同的图像中很快学会，步数再多就会把画面内容也抄下来。',
      character: '人脸有许多必须始终正确的细节，较低的学习率需要更多的步数。',
      object: '形状固定的物体比人脸需要的步数少。'
    },
    learning_rate: {
      style: '这个模型常用范围的上限：图像多而不同时可以承受。',
      character: '这个模型常用范围的下限：彼此相似的图像不容易被照抄。',
      object: '这个模型常用范围的上限。'
    },
    rank: {
      style: '画风同时改变色彩、光线和线条：常用的容量。',
      character: '常用的容量。',
      object: '一个物体不需要多少容量，较小的 LoRA 也更少记住背景。',
      card: '较小的 LoRA 给小显存的显卡留出更多空间放权重。'
    },
    resolution: {
      whole: (size) => `所有图像都能满足的最大尺寸 ${size} 适合这张显卡。`,
      smaller: (size, why) => `您的图像最大可用 ${size}。${why}`,
      because: {
        8: '约 768x768 的像素数约为 1024x1024 的一半；预计后者也放得下。',
        12: '预计约 1024x1024 时，fp8 模型的全部权重都能留在显卡上。',
        16: '预计约 1024x1024 时，fp8 模型的一切都能留在显卡上。',
        24: '预计约 1536x1024 时，fp8 模型的一切都能留在显卡上。'
      }
    },
    batch_size: '一次一张图像时显存占用最少，标注也不需要补齐。',
    memory_mode: '自动选择这张显卡放得下的最快方式。指定某种模式会让空闲的显存闲置。'
  }
}
