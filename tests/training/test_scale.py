"""What a step costs does not depend on how many images there are, nor on how many steps were done before it.

Counted, not timed: draws, cache entries, walks over the items, bytes.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ideogram4_lora_trainer.trainer_core.config import TrainSettings
from ideogram4_lora_trainer.trainer_core.model.cache import EncodingCache
from ideogram4_lora_trainer.trainer_core.training import loop, plan
from networks import place_under, training_data

MANY = 10_000
SETTINGS = TrainSettings(steps=5, rank=2, batch_size=2, gradient_accumulation=2, warmup_steps=0)
FIRST_LOOKS = set(range(16))
"""Images that may be looked at before step 1, for the checks and the longest caption: a few, however many there are.
Captions are all of one length here, so these are the first ones."""
SLACK_BYTES = 8 * 2**20
"""What memory may grow in 800 steps. Seen are under 1 MB, less and less of it the longer the run, and once in tens of
thousands of opened cache files 4 MB at a time, not repeated. A single tensor of a step that stays, 18 kB and more here,
would be 14 MB."""


class CountingItems(tuple):
    """Items that know how often they were walked over."""

    walks = 0

    def __iter__(self) -> Iterator[Any]:
        self.walks += 1
        return super().__iter__()


def many_items(folder: Path, patcher: Any, *, existing: set[int], **options: Any) -> Any:
    """Training data of `MANY` images of which only those in `existing` are really in the cache."""
    few = training_data(folder, patcher, count=1, **options)
    latent, text = few.raw_latent(0), few.text(0)
    names = [f"{index:05}.png" for index in range(MANY)]
    items = [dataclasses.replace(few.items[0], name=n, latent_key=f"{n}-latent", text_key=f"{n}-text") for n in names]
    for index in existing:
        few.cache.store(items[index].latent_key, latent)
        few.cache.store(items[index].text_key, text)
    return dataclasses.replace(few, items=CountingItems(items))


def keys_of(data: Any, indices: set[int]) -> set[str]:
    return {key for index in indices for key in (data.items[index].latent_key, data.items[index].text_key)}


def planned(settings: TrainSettings) -> set[int]:
    """The images that a run over `MANY` of them shows."""
    return {
        item
        for step in range(settings.steps)
        for micro in plan.plan_step(settings, step, MANY, 64, 64)
        for item in micro.items
    }


@pytest.mark.parametrize(("count", "epochs"), [(MANY, 1), (300, 14), (3, 1334)])
def test_an_order_is_drawn_once_for_an_epoch_and_not_for_a_step(
    monkeypatch: pytest.MonkeyPatch, count: int, epochs: int
) -> None:
    drawn: list[int] = []
    original = plan.generator

    def generator(seed: int, purpose: str, position: int) -> torch.Generator:
        if purpose == "order":
            drawn.append(position)
        return original(seed, purpose, position)

    monkeypatch.setattr(plan, "generator", generator)
    for step in range(1000):
        plan.plan_step(dataclasses.replace(SETTINGS, seed=count), step, count, 64, 64)
    assert drawn == list(range(epochs))


def test_a_run_touches_the_entries_that_it_shows_and_no_others(
    tiny_model: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patcher, shown = tiny_model("bf16"), planned(SETTINGS)
    data = many_items(tmp_path / "cache", patcher, existing=shown | FIRST_LOOKS, size=(64, 64))
    touched: set[str] = set()
    original = EncodingCache.load
    monkeypatch.setattr(EncodingCache, "load", lambda self, key: touched.add(key) or original(self, key))
    with torch.inference_mode():
        loop.train(patcher, data, SETTINGS, place_under(tmp_path))
    assert len(shown) == SETTINGS.steps * SETTINGS.items_per_step
    assert keys_of(data, shown) <= touched <= keys_of(data, shown | FIRST_LOOKS)


def test_no_step_walks_over_all_items(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    patcher, walks = tiny_model("bf16"), []
    for steps in (2, 12):
        settings = dataclasses.replace(SETTINGS, steps=steps, checkpoint_every=2)
        data = many_items(tmp_path / f"{steps}", patcher, existing=planned(settings) | FIRST_LOOKS, size=(64, 64))
        data.items.walks = 0
        with torch.inference_mode():
            loop.train(patcher, data, settings, place_under(tmp_path / f"{steps}"))
        walks.append(data.items.walks)
    assert walks[0] == walks[1] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc, in a forked process")
def test_memory_does_not_grow_with_the_steps(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    patcher = tiny_model("bf16")
    data = training_data(tmp_path / "cache", patcher, count=20, size=(96, 96), lengths=(20, 24))
    settings = TrainSettings(steps=1000, rank=2, warmup_steps=0)
    measured = tmp_path / "bytes"

    def measure(report: Any) -> None:
        if report.step in (200, 1000):
            with measured.open("a") as file:
                file.write(f"{anonymous_bytes()}\n")

    # A process of its own: what the tests before this one left to be freed must not hide what grows.
    pid = os.fork()
    if pid == 0:
        try:
            with torch.inference_mode():
                loop.train(patcher, data, settings, place_under(tmp_path), on_step=measure)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "the run failed"
    early, late = map(int, measured.read_text().split())
    assert late - early < SLACK_BYTES, f"grew by {(late - early) / 2**20:.1f} MiB in 800 steps"


def anonymous_bytes() -> int:
    """Memory of this process that is no file's: what it has allocated and touched."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return 1024 * int(line.split()[1])
