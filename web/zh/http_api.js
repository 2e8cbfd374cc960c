// Chinese texts of http_api/.

export default {
  'http_api/panel': {
    loading: '正在查询 ComfyUI…',
    on: '已开启',
    off: '已关闭',
    why: {
      settings: '供发送密钥的程序使用。',
      environment: '供发送 IDEOGRAM4_API_KEY 中密钥的程序使用。请在环境变量中修改。',
      '': '设置密钥之后才会开启。'
    },
    newKey: '新建密钥',
    turnOff: '关闭',
    replaces: '新密钥会替换当前密钥，当前密钥立即失效。',
    isOff: 'API 已关闭，密钥已删除。',
    fresh: '您的新密钥',
    freshWords: '密钥只在此时显示，之后无法在这里再次读取。请复制到您的程序读取密钥的地方。',
    own: '自己的密钥',
    ownHint: '至少 16 个字符',
    set: '设置',
    isSet: '您的密钥已设置。',
    models: '模型文件',
    kinds: {
      diffusion_model: '扩散模型',
      unconditional: '无条件模型',
      text_encoder: '文本编码器',
      vae: 'VAE'
    },
    standard: (name) => `标准文件：${name}`,
    noStandard: '这里没有标准文件：请选择',
    gone: (name) => `${name}（已不存在）`,
    maxImages: '数据集的图像数量上限',
    maxImagesHint: '适用于 Ideogram 的路由。Ideogram 自己最多接受 100 张。',
    saved: '已保存。'
  },
  'http_api/example': {
    title: '在程序中调用',
    encrypted: 'fal 的客户端只使用 https。请用 --tls-keyfile 和 --tls-certfile 启动 ComfyUI，或在前面放置代理。',
    manual: '所有路由和示例'
  },
  'http_api/copy': {
    copy: '复制',
    copied: '已复制',
    byHand: '请按 Ctrl+C'
  }
}
