"""Ideogram's contract for datasets and custom models on this ComfyUI: create, upload, train, list."""
