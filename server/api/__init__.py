"""What the fal and the Ideogram routes share: who may call, requests that outlast a restart, ComfyUI's queue, files."""
