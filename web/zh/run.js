// Chinese texts of web/run: see lib/i18n.js.

const STATES = { running: '进行中', stopped: '已停止', finished: '已完成' }

export default {
  'run/chooser': {
    label: '要查看的训练',
    own: (run) => (run ? `本节点：${run}` : '本节点'),
    others: '查看其他训练',
    run: ({ id, step, steps, state }) => `${id}（${STATES[state] ?? state}，${step} / ${steps}）`
  },
  'run/buttons': {
    save: '立即保存',
    saveTitle: '在这一步之后写入检查点',
    preview: '立即预览',
    previewTitle: '在这一步之后生成预览',
    noPreviews: '这次训练没有预览：下次训练前请连接“Ideogram 4 预览”节点',
    stop: '停止并保留',
    stopTitle: '在此结束训练，并输出目前的 LoRA',
    group: '对这次训练的操作',
    sure: '这一步之后停止；LoRA 会送到保存节点。',
    yes: '停止并保留',
    no: '继续训练',
    taken: {
      save: '已请求保存，将在这一步之后完成。',
      preview: '已请求预览，将在这一步之后生成。',
      stop: '已请求停止，将在这一步之后结束。'
    },
    done: {
      save: (step) => `已在第 ${step} 步保存。`,
      preview: (step) => `第 ${step} 步的预览已生成。`,
      stop: (step) => `已在第 ${step} 步停止，LoRA 已保留。`
    },
    failed: '没有成功，原因见上方的提示。',
    over: '训练在此之前已经结束。'
  },
  'run/legend': {
    label: '曲线和标记',
    log: '对数刻度',
    logTitle: '损失使用对数刻度',
    switchTitle: '显示或隐藏'
  },
  'run/words': {
    none: '还没有训练',
    beside: { previews: '正在生成预览', validation: '正在测量留出的图像' },
    noneDetail: '按“运行”。进度、损失和预览会显示在这里。',
    preparing: '正在准备',
    preparingDetail: '正在加载并检查模型，之后开始训练。',
    reading: '正在读取日志…',
    starting: '等待中',
    startingDetail: '已全部加载，正在进行第一步。',
    training: '正在训练',
    finished: '已完成',
    finishedDetail: 'LoRA 已送到保存节点。',
    kept: '已停止并保留',
    keptDetail: '您停止了训练。目前的 LoRA 已送到保存节点。',
    cancelled: '已取消',
    failed: '因错误停止',
    cut: '已中断',
    cutDetail: '这次训练已不在进行。要从最新的检查点继续，请在“继续训练”中选择它并按“运行”。',
    notBegun: '未能开始',
    gone: '已不存在',
    goneDetail: '这次训练的文件夹已被删除。按“运行”开始新的训练。',
    noAnswer: '没有连接',
    unknown: '–'
  },
  'run/progress': {
    unchanged: '刚才没有训练：没有任何改动，ComfyUI 直接使用了上次的结果。要继续这次训练，请在 resume 中选择它。',
    run: '训练',
    progress: '完成的步数',
    steps: (done, all) => `第 ${done} 步，共 ${all} 步`,
    figures: { left: '剩余时间', speed: '每步', memory: '显存', loss: '损失' },
    titles: {
      left: '按开始或继续以来的平均速度计算',
      speed: '开始或继续以来的平均值',
      memory: '除权重之外，训练在设备上的最大占用；无法统计时显示 –',
      loss: '平滑值：约五十步的平均'
    },
    attention: '需要注意',
    older: (count) => `更早的 ${count} 条消息`,
    atStep: (step) => `第 ${step} 步：`
  },
  'run/panel': { label: '训练', files: '训练的文件：' },
  'run/previews': {
    title: '预览',
    step: '步',
    base: '基础',
    baseTitle: '第 0 步：不带 LoRA 的模型',
    about: ({ width, height, seed, preset, every }) =>
      [width && `${width} × ${height}`, preset, seed !== undefined && `种子 ${seed}`, every && `每 ${every} 步`]
        .filter(Boolean)
        .join('，'),
    unguided: '未使用引导。请把无条件模型连接到预览节点，才能看到实际效果。',
    open: (step, prompt) => `第 ${step} 步、提示词 ${prompt + 1} 的预览：放大显示`,
    alt: (step, text) => `第 ${step} 步：${text}`,
    missing: '无',
    grid: '预览：每行一个步数，每列一条提示词'
  },
  'run/chart': {
    lines: { raw: '每一步', smooth: '平滑', validation: '验证', train: '训练图像，相同噪声' },
    marks: { checkpoint: '检查点', preview: '预览', note: '消息' },
    best: '最好',
    bestTitle: (step, loss) => `最低验证损失：第 ${step} 步，${loss}`,
    markTitle: (what, step, more) => `第 ${step} 步：${what}${more ? `，${more}` : ''}`,
    empty: '第一步完成后，损失会显示在这里。',
    loss: '损失',
    step: '步',
    summary: (state, smoothed, best) =>
      `共 ${state.steps} 步的损失曲线。目前的平滑损失为 ${smoothed}。` +
      (best ? `最低验证损失在第 ${best.step} 步。` : '')
  },
  'run/viewer': {
    label: '预览',
    close: '关闭',
    about: (step, prompt, seed) => `第 ${step} 步，提示词 ${prompt + 1}${seed === undefined ? '' : `，种子 ${seed}`}`,
    base: '不带 LoRA 的模型',
    unguided: '未使用引导',
    hint: '↑ 更晚、↓ 更早的步数，← → 其他提示词，Esc 关闭',
    missing: '这一步和这条提示词没有预览。',
    moves: { ArrowUp: '更晚的步数', ArrowDown: '更早的步数', ArrowLeft: '上一条提示词', ArrowRight: '下一条提示词' },
    signs: { ArrowUp: '↑', ArrowDown: '↓', ArrowLeft: '←', ArrowRight: '→' }
  },
  'run/toasts': {
    stopped: (run) => `${run} 的训练已停止`,
    previews: (run) => `${run} 不再生成预览`
  },
  'run/cursor': {
    label: '损失曲线上光标所在的步',
    step: '步',
    loss: '损失',
    smoothed: '平滑',
    validation: '验证',
    train: '训练图像',
    rate: '学习率',
    at: '时间',
    skipped: '跳过了更新',
    hint: '指向曲线，或选中曲线后使用方向键。'
  }
}
