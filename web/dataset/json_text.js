// JSON laid out for reading. Only the space between its parts changes: every string and number stays as it is written.

const INDENT = '  '

/** `text` on several lines, or null where it is not a JSON object or list. */
export function indented(text) {
  try {
    if (typeof (JSON.parse(text) ?? 0) !== 'object') return null
  } catch {
    return null
  }
  const parts = text.match(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g)
  let out = ''
  let depth = 0
  const newLine = () => '\n' + INDENT.repeat(depth)
  parts.forEach((part, at) => {
    const closes = part === '}' || part === ']'
    const isEmpty = closes && (parts[at - 1] === '{' || parts[at - 1] === '[')
    if (closes) depth -= 1
    if (closes && !isEmpty) out += newLine()
    out += part
    if (part === '{' || part === '[') {
      depth += 1
      if (parts[at + 1] !== '}' && parts[at + 1] !== ']') out += newLine()
    }
    if (part === ',') out += newLine()
    if (part === ':') out += ' '
  })
  return out
}
