"""How much memory a run needs, and which of the ways to live with less it takes.

What lies on the device while a step is computed:

    weights        of the model, as stored; none but those of two blocks where they are streamed
    adapters       rank x (in + out) values of each layer: fp32 weight and gradient, and AdamW's two moments
    inputs         one tensor (tokens, D) for each block that is computed again in the backward pass
    activations    of each block that is not
    working set    of the block that is being computed, with one weight cast to the compute type

Shapes: D model width, F feed-forward width.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any

from ..config import TrainSettings
from . import host
from .host import ComfyModule

GIB = 2**30
_HEADROOM = 0.08
"""Part of a device that is left alone: torch's allocator rounds up and leaves gaps."""


class MemoryMode(enum.IntEnum):
    """What a run keeps on the device. Each needs less than the one before, takes longer, and gives the same numbers."""

    RESIDENT = 0
    OFFLOADED = 1
    STREAMED = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a plan is made from: bytes on the device, unless it says otherwise."""

    blocks: int
    """A number."""
    block_weights: int
    """Stored weights of one block."""
    outer_weights: int
    """Stored weights around the blocks that training uses."""
    cast_weight: int
    """The largest linear layer in the compute type, 0 where weights are stored in it."""
    adapter_values: int
    """A number: of trained values in all blocks."""
    block_input: int
    block_activations: int
    """What one block keeps for its backward pass."""
    working_set: int
    """What the backward pass of one block has beside its activations."""
    gradients_add_up: bool
    """Whether a pass meets the gradients of one before, as with gradient accumulation."""


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """How a run uses the device's memory."""

    mode: MemoryMode
    kept_blocks: int
    """How many blocks keep their activations; the others are computed again."""
    weight_bytes: int
    """Predicted: weights on the device, those that are passing through included."""
    training_bytes: int
    """Predicted: everything else at the peak."""
    resident_bytes: int
    """Weights of blocks that stay on the device: all, but when streamed."""
    sizes: Sizes = dataclasses.field(repr=False)

    @property
    def offloads(self) -> bool:
        """Whether block inputs and the optimiser's moments lie in main memory."""
        return self.mode >= MemoryMode.OFFLOADED

    @property
    def predicted_bytes(self) -> int:
        return self.weight_bytes + self.training_bytes

    @property
    def allocated_bytes(self) -> int:
        """Predicted: all but the weights that stay on the device."""
        return self.predicted_bytes - self.sizes.outer_weights - self.resident_bytes

    def leave_bytes(self, total_bytes: int) -> int:
        """What ComfyUI should leave free of a device of `total_bytes`: all of it where every block is streamed."""
        return self.allocated_bytes if self.resident_bytes else total_bytes

    def __str__(self) -> str:
        """`resident, 30 of 34 blocks recomputed: 12.0 GiB predicted (8.6 weights, 3.4 training)`."""
        total, weights, training = (n / GIB for n in (self.predicted_bytes, self.weight_bytes, self.training_bytes))
        return (
            f"{self.mode}, {self.sizes.blocks - self.kept_blocks} of {self.sizes.blocks} blocks recomputed: "
            f"{total:.1f} GiB predicted ({weights:.1f} weights, {training:.1f} training)"
        )

    def smaller(self) -> MemoryPlan | None:
        """What to try when this one did not fit; None when nothing is left."""
        if self.kept_blocks:
            return make_plan(self.sizes, self.mode, kept_blocks=0)
        if self.mode < MemoryMode.STREAMED:
            return make_plan(self.sizes, MemoryMode(self.mode + 1))
        return make_plan(self.sizes, MemoryMode.STREAMED) if self.resident_bytes else None


def make_plan(sizes: Sizes, mode: MemoryMode, *, kept_blocks: int = 0, resident_bytes: int = 0) -> MemoryPlan:
    """The prediction for a mode. When streamed, `resident_bytes` of the blocks' weights stay on the device."""
    offloads = mode >= MemoryMode.OFFLOADED
    recomputed = sizes.blocks - kept_blocks
    passing, all_blocks = 0, sizes.blocks * sizes.block_weights
    if mode is MemoryMode.STREAMED:
        passing = min(2, sizes.blocks) * sizes.block_weights
        resident_bytes = min(resident_bytes, all_blocks - passing)
    else:
        resident_bytes = all_blocks
    # fp32 weights, and AdamW's two moments unless these visit the device some layers at a time.
    adapters = sizes.adapter_values * 4 * (1 if offloads else 3)
    gradients = sizes.adapter_values * 4
    inputs = (min(recomputed, 2) if offloads else recomputed) * sizes.block_input
    # While the backward pass goes from block to block, inputs and kept activations become fewer, and gradients more.
    at_first = inputs + max(kept_blocks, 1) * sizes.block_activations
    at_first += gradients if sizes.gradients_add_up else gradients // sizes.blocks
    at_last = gradients + sizes.block_input + sizes.block_activations
    training = adapters + max(at_first, at_last) + sizes.working_set + sizes.cast_weight
    weights = sizes.outer_weights + resident_bytes + passing
    return MemoryPlan(mode, kept_blocks, weights, training, resident_bytes, sizes)


def choose_plan(sizes: Sizes, settings: TrainSettings, available: int) -> MemoryPlan:
    """The fastest plan that fits into `available` bytes, within the settings' `memory_mode`.

    A mode that the settings name is taken as it is, whether it seems to fit or not; so is the smallest.
    """
    room = int(available * (1 - _HEADROOM))
    if settings.memory_mode != "auto":
        return _fastest(sizes, MemoryMode[settings.memory_mode.upper()], settings, room)
    for mode in MemoryMode:
        plan = _fastest(sizes, mode, settings, room)
        if plan.predicted_bytes <= room:
            return plan
    return plan


def _fastest(sizes: Sizes, mode: MemoryMode, settings: TrainSettings, room: int) -> MemoryPlan:
    """Within a mode: as many blocks kept as there is room for, or as many weights resident when streamed."""
    if not settings.gradient_checkpointing:
        keeps_all = make_plan(sizes, mode, kept_blocks=sizes.blocks)
        if keeps_all.predicted_bytes <= room:
            return keeps_all
    least = make_plan(sizes, mode)
    if settings.memory_mode != "auto" and mode is not MemoryMode.RESIDENT:
        # Asked for by name, so the memory is wanted for something else.
        return least
    if mode is MemoryMode.STREAMED:
        return make_plan(sizes, mode, resident_bytes=max(0, room - least.predicted_bytes))
    kept = 0
    while kept < sizes.blocks and make_plan(sizes, mode, kept_blocks=kept + 1).predicted_bytes <= room:
        kept += 1
    return make_plan(sizes, mode, kept_blocks=kept)


def largest_size_that_fits(
    patcher: Any, settings: TrainSettings, size: tuple[int, int], text_tokens: int, available: int
) -> tuple[int, int] | None:
    """The largest size in pixels of about the same shape that can be trained streamed in `available` bytes; None if
    there is none. Smaller than `size`, and in multiples of 16.
    """
    steps = max(size) // 16
    for step in range(steps - 1, 0, -1):
        smaller = tuple(max(16, side * step // steps // 16 * 16) for side in size)
        sizes = measure_sizes(patcher, settings, (smaller[0], smaller[1]), text_tokens)
        if make_plan(sizes, MemoryMode.STREAMED).predicted_bytes <= available * (1 - _HEADROOM):
            return smaller[0], smaller[1]
    return None


def measure_sizes(patcher: Any, settings: TrainSettings, size: tuple[int, int], text_tokens: int) -> Sizes:
    """Sizes of a run at an image size in pixels, with captions of up to `text_tokens` tokens."""
    network = patcher.model.diffusion_model
    block, itemsize = network.layers[0], patcher.model.get_dtype_inference().itemsize
    d, f = block.feed_forward.w1.in_features, block.feed_forward.w1.out_features
    tokens = settings.batch_size * (size[0] // 16 * (size[1] // 16) + text_tokens)
    wide, wider = tokens * d * itemsize, tokens * f * itemsize
    linears = block_linears(block)
    blocks = len(network.layers)
    text_layers = host.stored_bytes(network.llm_cond_proj) + host.stored_bytes(network.llm_cond_norm)
    block_weights = max(host.stored_bytes(layer) for layer in network.layers)
    in_blocks = sum(host.stored_bytes(layer) for layer in network.layers)
    return Sizes(
        blocks=blocks,
        block_weights=block_weights,
        outer_weights=host.stored_bytes(network) - in_blocks - text_layers,
        cast_weight=max(_cast_bytes(linear, itemsize) for linear in linears),
        adapter_values=adapter_values(network, settings),
        block_input=wide,
        # qkv (3), rotated q and k (2), output of attention, of o and of w2, two modulated inputs, two sums; w1, w3.
        block_activations=12 * wide + 2 * wider,
        # In the feed-forward's backward pass, where most is alive: gate and product; gradients of input and output.
        working_set=2 * wider + 5 * wide // 2,
        gradients_add_up=settings.gradient_accumulation > 1,
    )


def _cast_bytes(linear: ComfyModule, itemsize: int) -> int:
    return linear.in_features * linear.out_features * itemsize


def block_linears(block: ComfyModule) -> Sequence[ComfyModule]:
    """The adapted layers of a block, without the modulation."""
    feed_forward = block.feed_forward
    return block.attention.qkv, block.attention.o, feed_forward.w1, feed_forward.w2, feed_forward.w3


def adapter_values(network: ComfyModule, settings: TrainSettings) -> int:
    """Numbers in the adapters of a run: rank times the sides of every adapted layer."""
    block = network.layers[0]
    linears = [*block_linears(block), *([block.adaln_modulation] if settings.train_modulation else [])]
    return len(network.layers) * settings.rank * sum(m.in_features + m.out_features for m in linears)
