"""Training data of drawn pictures, encoded by the tiny VAE and text encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import dataset_zip


@pytest.fixture(scope="session")
def taught_data(
    tiny_model: Callable[..., Any], tiny_clip: Any, tiny_vae: Any, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """Three pictures at 64x64, the kind that the tiny base was taught on."""
    from ideogram4_lora_trainer.trainer_core.dataset import open_dataset
    from ideogram4_lora_trainer.trainer_core.model.encode import encode_dataset

    folder: Path = tmp_path_factory.mktemp("taught")
    (folder / "set.zip").write_bytes(dataset_zip())
    with torch.inference_mode():
        return encode_dataset(
            open_dataset(folder / "set.zip"),
            width=64,
            height=64,
            vae=tiny_vae,
            clip=tiny_clip,
            patcher=tiny_model("bf16"),
            cache_folder=folder / "cache",
        )
