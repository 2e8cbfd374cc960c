// The texts of modules in the language of ComfyUI's page. English stands in the modules; others in a file each.

const LANGUAGES = { zh: '../zh/texts.js' }

/** English texts of every module that was loaded, by its name, so that a test can compare. */
export const english = new Map()

/**
 * `texts` of a module in the language of the page: `const TEXT = await translated('save/panel', { ... })`. What a
 * language lacks stays English. Values are strings, functions that give strings, or objects of these.
 */
export async function translated(name, texts) {
  english.set(name, texts)
  // What scripts/app.js exports; asked for without it, so that pure modules can be loaded outside of ComfyUI's page.
  const app = globalThis.comfyAPI?.app?.app
  const file = LANGUAGES[app?.extensionManager?.setting?.get('Comfy.Locale')]
  if (!file) return texts
  try {
    const { default: language } = await import(file)
    return over(texts, language[name])
  } catch {
    return texts // a file that cannot be loaded costs the language and nothing else
  }
}

function over(texts, others = {}) {
  return Object.fromEntries(
    Object.entries(texts).map(([key, text]) => {
      const other = others[key]
      const deeper = typeof text === 'object' && !Array.isArray(text)
      return [key, deeper ? over(text, other) : (other ?? text)]
    })
  )
}
