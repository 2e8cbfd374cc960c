"""Processes that train one LoRA together: each computes its share of every step, and the gradients are added up.

torchrun starts them and torch.distributed lets them talk: NCCL between GPUs, Gloo on CPUs. The first one alone writes
to the disk. A process that trains alone is a team of one, for which nothing here does anything.

No process may wait for ever for one that is gone:
- before anything is exchanged, every process votes, over Gloo and so on the CPU, whether it is still well. One that
  fails votes once more, on its way out, and all others raise `PeerStopped` with its words;
- one that was killed is noticed by its closed connection, one that hangs after `TIMEOUT`;
- nobody leaves before the first process has saved: torchrun ends the others as soon as one ends badly.
Not covered: a process that dies between a vote and the end of the exchange that follows it. On GPUs the others notice
after `TIMEOUT`, and cannot save then.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import SettingsError, UserError
from ..model import host
from ..model.adapters import Adapters
from .facts import RunFacts
from .history import LossHistory
from .optimizer import MOMENTS, set_state
from .plan import share_of_step
from .run_log import RunLog
from .runs import RunPlace

log = logging.getLogger(__name__)

TIMEOUT = datetime.timedelta(minutes=30)
"""Longer than the first process may need for a checkpoint, or the slowest for loading the model."""
BUCKET_VALUES = 2**24
"""Gradients that are added up at a time, 64 MB."""
_WORDS_BYTES = 1000
_OPTIMIZER_STATE = ("step", *MOMENTS)


class PeerStopped(UserError):
    """Another process of the team failed, was cancelled or is gone."""

    code = "peer_stopped"


class Team:
    """The processes that train together, as one of them sees it. Used in a `with` around all that may fail."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world
        self._together = world > 1
        """Whether the others wait for votes of this process."""
        self._lost = False
        self._buffer = torch.empty(0)

    @property
    def leads(self) -> bool:
        """Whether this is the process that owns the run on disk."""
        return self.rank == 0

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.world == 1:
            return
        if self._together and error is not None:
            self._vote(_in_words(error))
        with contextlib.suppress(RuntimeError):  # somebody is gone already
            if not self._lost:
                dist.all_reduce(torch.zeros(1))
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()  # without it torch's threads may abort the process at its end

    # ---- votes ---------------------------------------------------------------------------------------------------

    def agree(self) -> None:
        """Wait for all. Raises `PeerStopped` when one of them has stopped. Whoever calls this may exchange next."""
        if self._together:
            self._vote("")

    def _vote(self, trouble: str) -> None:
        """Say whether this process is in trouble. Raises `PeerStopped` when only others are."""
        try:
            against = torch.tensor([float(bool(trouble))])
            self._exchange(dist.all_reduce, against, op=dist.ReduceOp.MAX)
            if not against.item():
                return
            self._together = False
            everybody = self._words_of_all(trouble)
        except PeerStopped:
            if trouble:
                return
            raise
        if not trouble:
            rank, words = next((rank, words) for rank, words in enumerate(everybody) if words)
            raise PeerStopped(f"Process {rank + 1} of {self.world} stopped: {words}")

    def _words_of_all(self, own: str) -> list[str]:
        encoded = own.encode("utf-8", "replace")[:_WORDS_BYTES]
        mine = torch.frombuffer(bytearray(encoded.ljust(_WORDS_BYTES, b"\0")), dtype=torch.uint8)
        everybody = [torch.empty_like(mine) for _ in range(self.world)]
        self._exchange(dist.all_gather, everybody, mine)
        return [bytes(words.tolist()).rstrip(b"\0").decode("utf-8", "replace") for words in everybody]

    def _exchange(self, call: Callable[..., Any], *args: Any, **options: Any) -> None:
        try:
            call(*args, **options)
        except RuntimeError as error:
            if host.is_out_of_memory(error):
                raise
            self._together, self._lost = False, True
            log.info("torch.distributed: %s", error)
            raise PeerStopped(
                f"Another of the {self.world} processes was ended, hangs or cannot be reached any more."
            ) from error

    # ---- what is exchanged ---------------------------------------------------------------------------------------

    def require_same(self, facts: RunFacts) -> RunFacts:
        """Compare what every process is about to train with what the first is, and return the facts of the team's run.

        Raises `SettingsError` where a step cannot be shared equally, and in a process that has other settings, data or
        another model than the first.
        """
        if self.world == 1:
            return facts
        share_of_step(facts.settings, self.rank, self.world)
        self.agree()
        own = {name: value for name, value in facts.to_json().items() if name != "versions"}
        digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).digest()
        mine = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
        first = mine.clone()
        self._exchange(dist.broadcast, first, src=0)
        if not torch.equal(mine, first):
            raise SettingsError(
                "It has other settings, training data, model weights or another number type than the first process. "
                "Give every machine the same run.json, encodings, model file and versions."
            )
        # A run that goes on with another number of processes is told that its last digits may differ.
        return dataclasses.replace(facts, versions={**facts.versions, "processes": str(self.world)})

    def same_start(
        self, begun: tuple[LossHistory, float], adapters: Adapters, optimizer: torch.optim.Optimizer
    ) -> tuple[LossHistory, float]:
        """Give every process what the first begins with: adapters, the optimiser's state, losses and seconds."""
        self.agree()
        if self.world == 1:
            return begun
        parameters = list(adapters.parameters().values())
        device = parameters[0].device
        largest = max(parameter.numel() for parameter in parameters)
        # Made once and here: running out of memory during an exchange would leave the others waiting.
        self._buffer = torch.empty(max(BUCKET_VALUES, largest), device=device)

        history, seconds = begun
        losses = [math.nan if loss is None else loss for loss in history.entries]
        head = torch.tensor([len(losses), history.forgiven, seconds, bool(optimizer.state)], dtype=torch.float64)
        self._exchange(dist.broadcast, head, src=0)
        count, forgiven, seconds, has_state = head.tolist()
        told = torch.tensor(losses, dtype=torch.float64) if self.leads else torch.empty(int(count), dtype=torch.float64)
        self._exchange(dist.broadcast, told, src=0)
        for parameter in parameters:
            self._exchange(dist.broadcast, parameter.data, src=0)
            if has_state:
                self._share_state(optimizer, parameter)
        entries = [None if math.isnan(loss) else loss for loss in told.tolist()]
        return LossHistory(entries, forgiven=int(forgiven)), seconds

    def _share_state(self, optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> None:
        entries = {}
        for name in _OPTIMIZER_STATE:
            shape = () if name == "step" else parameter.shape
            entry = torch.empty(shape, device=parameter.device)
            if self.leads:
                entry.copy_(optimizer.state[parameter][name])
            self._exchange(dist.broadcast, entry, src=0)
            entries[name] = entry
        if not self.leads:
            set_state(optimizer, parameter, entries)

    def add_up(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        """Replace the loss and the gradients of a step by their sums over all processes."""
        if self.world == 1:
            return
        self.agree()
        self._exchange(dist.all_reduce, loss)
        for bucket in _buckets([p.grad for p in parameters if p.grad is not None], self._buffer.numel()):
            together = self._buffer[: sum(grad.numel() for grad in bucket)]
            torch.cat([grad.flatten() for grad in bucket], out=together)
            self._exchange(dist.all_reduce, together)
            parts = together.split([grad.numel() for grad in bucket])
            for grad, part in zip(bucket, parts, strict=True):
                grad.copy_(part.view_as(grad))

    def ends_early(self) -> bool:
        """Whether this process can end the run well when its user asks for it.

        One of several cannot, since the others have begun the next step: it is cancelled instead, which saves as well.
        """
        if self.world > 1:
            host.interrupt()
        return self.world == 1

    def finish(self, parameters: Sequence[nn.Parameter]) -> str:
        """The last vote, after the last step. Returns a note for the user, "" if all is well."""
        self.agree()
        if self.world == 1:
            return ""
        lowest = torch.stack([p.detach().view(torch.int32).sum(dtype=torch.int64) for p in parameters])
        highest = lowest.clone()
        self._exchange(dist.all_reduce, lowest, op=dist.ReduceOp.MIN)
        self._exchange(dist.all_reduce, highest, op=dist.ReduceOp.MAX)
        self._together = False
        if torch.equal(lowest, highest):
            return ""
        return (
            "The adapters of the processes are no longer equal, so some gradients were computed with other weights "
            "than those that are saved. Cards of different types can do that; train on equal ones."
        )


class FollowedRun:
    """What a process that does not lead has in place of a `Run`: no folder, no files, no words."""

    saved_step = -1
    name = ""

    folder = None
    checkpoint_bytes = 0

    def __init__(self, place: RunPlace, facts: RunFacts, log: RunLog) -> None:
        self.place, self.facts, self.log = place, facts, log

    def begin(self, adapters: Adapters, optimizer: torch.optim.Optimizer) -> tuple[LossHistory, float]:
        """Nothing yet: `Team.same_start` brings it."""
        return LossHistory(), 0.0

    def due(self, step: int) -> bool:
        return False

    def stopped(self, reason: str) -> str:
        return ""

    def asked(self) -> set[str]:
        return set()

    def has(self, event: str, step: int) -> int:
        return 0

    def save_or_go_on(self, state: object, *, last: bool = False) -> bool:
        return False

    def _nothing(self, *_: object, **__: object) -> None: ...

    save_on_the_way_out = validated = answer = finish = close = _nothing


def join_team(device: torch.device) -> Team:
    """Meet the other processes that torchrun has started; without torchrun, a team of one.

    Raises `SettingsError` on a device that cannot take part, and `PeerStopped` when they cannot be met.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Team()
    if device.type not in ("cpu", "cuda"):
        raise SettingsError(f"Several processes cannot train together on {device.type}, only on CUDA GPUs or the CPU.")
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise PeerStopped(
            f"The other processes could not be met ({str(error).splitlines()[0][:200]}). Start this one with torchrun, "
            "with the same address and number of processes on every machine."
        ) from error
    return Team(dist.get_rank(), dist.get_world_size())


def _buckets(grads: Sequence[Tensor], most_values: int) -> Iterator[list[Tensor]]:
    """The tensors in order, in groups of at most `most_values`."""
    bucket: list[Tensor] = []
    size = 0
    for grad in grads:
        if bucket and size + grad.numel() > most_values:
            yield bucket
            bucket, size = [], 0
        bucket.append(grad)
        size += grad.numel()
    if bucket:
        yield bucket


def _in_words(error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error)
    if host.is_interrupt(error) or isinstance(error, KeyboardInterrupt):
        return "it was cancelled."
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no words'}"
