"""The trainer: datasets, model, training and LoRA files, free of nodes and of the server."""

__version__ = "0.1.0"
