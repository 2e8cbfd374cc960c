"""fal's HTTP contract on this ComfyUI: the queue protocol, the trainer, and inference with what was trained."""
