"""The pack's nodes, one per file."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .compare_lora import Ideogram4CompareLoRA
from .encode_dataset import Ideogram4EncodeDataset
from .expand_prompt import Ideogram4ExpandPrompt
from .load_dataset import Ideogram4LoadDataset
from .load_lora import Ideogram4LoadLoRA
from .previews import Ideogram4Previews
from .resolve_resolution import Ideogram4ResolveResolution
from .save_lora import Ideogram4SaveLoRA
from .train_lora import Ideogram4TrainLoRA
from .train_settings import Ideogram4TrainSettings


class Ideogram4TrainerExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            Ideogram4LoadDataset,
            Ideogram4ResolveResolution,
            Ideogram4EncodeDataset,
            Ideogram4TrainLoRA,
            Ideogram4TrainSettings,
            Ideogram4SaveLoRA,
            Ideogram4LoadLoRA,
            Ideogram4Previews,
            Ideogram4CompareLoRA,
            Ideogram4ExpandPrompt,
        ]
