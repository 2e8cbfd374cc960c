"""One low-rank update, and the exact algebra on it: fold the scale, pad the rank, fuse and split q, k, v.

The update of a linear layer is scale * (up @ down) with scale = alpha / rank. Every function here returns the same
update in another form. "Exact" means that no rounding happens: values are moved or zeros are added. The one operation
that rounds is folding a scale that is no power of two, which is done in fp32 (relative error 6e-8).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class LoraWeights:
    """The update of one linear layer: `scale * (up @ down)`."""

    down: Tensor
    """A, (rank, in)."""
    up: Tensor
    """B, (out, rank)."""
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in): the shape of the layer's weight."""
        return self.up.shape[0], self.down.shape[1]

    def delta(self) -> Tensor:
        """The update itself, fp32, (out, in). As large as the layer's weight: for tests and merging."""
        return self.scale * (self.up.float() @ self.down.float())


def unit_scale(weights: LoraWeights) -> LoraWeights:
    """The same update with alpha = rank: the scale moves into `up`, which becomes fp32 unless the scale was 1."""
    if weights.scale == 1.0:
        return weights
    return LoraWeights(weights.down, weights.up.float() * weights.scale, float(weights.rank))


def pad_rank(weights: LoraWeights, rank: int) -> LoraWeights:
    """The same update at a higher rank: zero rows and columns are added and alpha grows in proportion. Exact."""
    extra = rank - weights.rank
    if extra == 0:
        return weights
    down = torch.nn.functional.pad(weights.down, (0, 0, 0, extra))
    up = torch.nn.functional.pad(weights.up, (0, extra))
    return LoraWeights(down, up, weights.scale * rank)


def split_qkv(weights: LoraWeights) -> tuple[LoraWeights, LoraWeights, LoraWeights]:
    """Updates of q, k and v from that of the fused layer (rows q|k|v): `down` is shared, `up` cut in thirds. Exact."""
    q, k, v = weights.up.chunk(3, dim=0)
    down, alpha = weights.down, weights.alpha
    return LoraWeights(down, q, alpha), LoraWeights(down, k, alpha), LoraWeights(down, v, alpha)


def fuse_qkv(parts: Sequence[LoraWeights | None]) -> LoraWeights:
    """The update of the fused layer (rows q|k|v) from those of q, k and v; None stands for a part without one.

    Parts that share one `down` keep their rank (the inverse of `split_qkv`). Otherwise the downs are stacked and the
    ups become the blocks of a block-diagonal matrix, at the sum of the ranks. Both are exact while all scales are
    equal and, when stacking, 1; other scales are folded into `up` in fp32 first. All parts have the same (out, in).
    """
    present = [part for part in parts if part is not None]
    first = present[0]
    shared = all(_same(part.down, first.down) for part in present)
    if not shared or any(part.scale != first.scale for part in present):
        parts = [part and unit_scale(part) for part in parts]
        present = [part for part in parts if part is not None]
    out = first.shape[0]
    rank = first.rank if shared else sum(part.rank for part in present)
    up = torch.zeros(3 * out, rank, dtype=_common_dtype([part.up for part in present]), device=first.up.device)
    column = 0
    for index, part in enumerate(parts):
        if part is not None:
            up[index * out : (index + 1) * out, column : column + part.rank] = part.up
            column += 0 if shared else part.rank
    down = first.down if shared else torch.cat([part.down for part in present])
    return LoraWeights(down, up, present[0].alpha if shared else float(rank))


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _common_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """The dtype that holds every value of all `tensors` exactly."""
    dtypes = {tensor.dtype for tensor in tensors}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32
