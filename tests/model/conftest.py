"""Networks and adapters on the tiny models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from networks import RANK


@pytest.fixture
def opened(tiny_model: Callable[..., Any]) -> Callable[..., Any]:
    """`with opened("fp8_scaled") as (patcher, network, adapters):` under inference mode, as a node runs."""
    from ideogram4_lora_trainer.trainer_core.model.adapters import inject_adapters
    from ideogram4_lora_trainer.trainer_core.model.network import open_network
    from ideogram4_lora_trainer.trainer_core.training.streams import generator

    @contextmanager
    def open_it(fmt: str, *, train_modulation: bool = False, rank_stabilized: bool = False) -> Iterator[Any]:
        patcher = tiny_model(fmt)
        with torch.inference_mode(), open_network(patcher) as network:
            adapters = inject_adapters(
                network.module,
                rank=RANK,
                rank_stabilized=rank_stabilized,
                train_modulation=train_modulation,
                generator_for=lambda path: generator(0, "adapter", path),
                device=network.device,
            )
            yield patcher, network, adapters

    return open_it
