// Chinese texts of web/dataset: see lib/i18n.js.

const INSTEAD = '把 zip 放进 ComfyUI 的 input 文件夹，按 R 刷新，然后在“数据集”中选择它。'

export default {
  'dataset/upload': {
    noRoute: `这个 ComfyUI 不接受数据集上传：它的节点包版本比页面旧。请重启 ComfyUI 并刷新页面，或者${INSTEAD}`,
    tooLarge: `ComfyUI 或它前面的代理拒绝这么大的上传。请用更大的 --max-upload-size（单位 MB）启动 ComfyUI，或者${INSTEAD}`,
    brokeOff: '与 ComfyUI 的连接中断且没有恢复。请确认它仍在运行，然后重试。',
    unclear: (status) => `ComfyUI 返回了 HTTP ${status}。`
  },
  'dataset/files': {
    nothing: '这里没有可以作为数据集的内容。请使用一个 .zip，或带 .txt 标注的图像（.png、.jpg、.webp）。',
    noImages: '这些文件中没有图像。请加上标注对应的 .png、.jpg 或 .webp 文件。',
    severalZips: '不止一个 zip。请逐个上传，每个成为一个数据集。',
    mixed: 'zip 和其他文件混在一起。请上传一个 zip，或带 .txt 标注的图像。',
    empty: (name) => `${name} 是空的。请检查文件后重试。`,
    unreadable: (name) => `无法读取 ${name}。请确认您可以打开它，然后重试。`
  },
  'dataset/contents': {
    empty: '还没有选择数据集。请把 zip，或图像和同名的 .txt 标注拖到这个节点上。',
    linked: '数据集由连线传入，运行工作流时读取。',
    url: '使用“网址”中的地址，而不是 input 文件夹中的数据集。运行工作流时读取。',
    missing: (name) => `${name} 不在 ComfyUI 的 input 文件夹中。请重新上传，或选择其他数据集。`,
    reading: (name) => `正在读取 ${name}…`,
    images: (count) => `${count} 张图像`,
    at: ({ width, height }) => `${width} × ${height}`,
    fine: '没有发现问题',
    attention: (count) => `${count} 张需要注意`,
    sofar: (known, total) => `已读取 ${known} / ${total}`,
    comparing: '正在查找近似重复的图像…',
    filter: '只显示需要注意的',
    report: '完整报告',
    again: '重试'
  },
  'dataset/tile': {
    size: (width, height) => `${width} × ${height}`,
    noCaption: '没有标注',
    json: 'JSON',
    source: { default: '默认标注', forced: '默认标注', corrected: '已修改' },
    broken: '无法显示',
    open: '按回车键放大查看并修改标注。'
  },
  'dataset/frame': { kind: { text: '文字' } },
  'dataset/uploader': {
    button: '上传 zip 或图像…',
    hint: '或拖放到这里',
    busy: '正在上传。请等待完成，或先取消。',
    several: (count) => `${count} 个文件`,
    leftOut: (count, names) => `已忽略（只使用图像和 .txt 文件）：${names}${count}`,
    more: (count) => ` 等另外 ${count} 个`,
    cancelled: '已取消，没有保留任何内容。',
    dismiss: '隐藏这条消息'
  },
  'dataset/editor': {
    caption: '标注',
    save: '保存',
    saveTip: 'Ctrl+Enter',
    restore: '恢复原始标注',
    restoreTip: '放弃修改，使用图像自带的标注',
    read: '排版显示',
    readTip: '把 JSON 分行显示。保存的内容不变。',
    placeholder: '没有标注，请在这里填写。'
  },
  'dataset/progress': {
    label: '上传',
    sending: (name, sent, total, percent) => `${name}：${sent} / ${total}，${percent} %`,
    checking: (name) => `${name}：已全部发送，ComfyUI 正在检查。`,
    cancel: '取消'
  },
  'dataset/marks': {
    word: { too_small: '太小', no_caption: '没有标注', json: '检查 JSON', near_duplicate: '近似重复' },
    other: '请查看'
  },
  'dataset/grid': {
    label: '数据集的图像',
    more: (count, left) => `再显示 ${count} 张（还有 ${left} 张）`,
    none: '没有需要注意的图像。'
  },
  'dataset/viewer': {
    dialog: '图像和标注',
    close: '关闭',
    previous: '上一张',
    next: '下一张',
    crop: '裁剪框',
    boxes: '边界框',
    loading: '正在读取标注…',
    facts: (item, crop) => `${item.width} × ${item.height} 像素${crop}`,
    trained: (width, height) => `，训练尺寸 ${width} × ${height}`,
    place: (at, total) => `第 ${at} 张，共 ${total} 张`,
    source: {
      file: '',
      corrected: '这条标注在此修改过。图像自带的文件没有改变。',
      default: '它没有自己的标注：使用节点的默认标注。',
      forced: '所有图像都使用节点的默认标注，而不是这一条。',
      missing: '它还没有标注。'
    },
    noPicture: '无法显示这张图像。它可能已经改变：请关闭后重新查看。',
    saved: '已保存在数据集旁边。zip 或文本文件保持不变。',
    restored: '重新使用原始标注。',
    changed: '数据集已经改变。您的文字还在：请检查后再次保存。',
    gone: (name) => `${name} 已不在数据集中。您的文字还在：需要的话请复制。`,
    unsaved: '这条标注还没有保存。',
    saveIt: '保存',
    discard: '放弃',
    stay: '继续编辑'
  }
}
