// What a result of the save node says about its files: { filename, subfolder, type, bytes }. Pure.

/** The address of a file on ComfyUI's own route. */
export function fileUrl({ filename, subfolder, type }) {
  return `/view?${new URLSearchParams({ filename, subfolder, type })}`
}

/** The folder of all files, as a user finds it: `output/loras`. */
export function folderOf([{ subfolder, type }]) {
  return subfolder ? `${type}/${subfolder}` : type
}

/** `comfy`, `fal`, `diffusers` or `config`, from the ending that the node gives to a name. */
export function purposeOf(filename) {
  const [, layout] = filename.match(/_\d{5,}_(fal|diffusers|config)(?:_\d+)?\.\w+$/) ?? []
  return layout ?? 'comfy'
}
