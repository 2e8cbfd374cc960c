"""What a run is made of, and what has changed since when it is gone on with.

Rules, by setting:
- free, because results do not depend on it: gradient_checkpointing, memory_mode, checkpoint_every, keep_checkpoints,
  validation_every;
- compile_blocks: free, though the last digits differ;
- steps: free while the learning rate of the steps to come stays as it was planned, as it does with the constant
  schedule after the warm-up; never fewer than are done;
- rank, rank_stabilized, train_modulation: never, the adapters have another shape or scale;
- everything else, the images, captions, encoders and the model: refused, unless the user asks to continue anyway.
  Then the new values hold from the next step on; what was learnt, the optimiser's state and the step number stay.

The learning rate of a step is always computed from the settings now in force and the step's number.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ..config import TrainSettings
from ..errors import CheckpointUnreadable, RunChanged, SettingsError
from ..model import host
from ..model.encode import TrainingData
from ..model.identity import weights_identity
from ..model.network import compute_dtype, model_file_name, model_identity
from ..model.versions import versions
from .plan import learning_rate

FREE = ("gradient_checkpointing", "memory_mode", "checkpoint_every", "keep_checkpoints", "validation_every")
ROUNDING = ("compile_blocks",)
FIXED = ("rank", "rank_stabilized", "train_modulation")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Everything that decides what a run computes. `images`, `captions` and `texts` are hashes over all items."""

    settings: TrainSettings
    dataset: str
    """Its name; of no consequence."""
    image_count: int
    width: int
    height: int
    images: str
    """Of the encoded images."""
    captions: str
    """Of the words."""
    texts: str
    """Of the encoded captions."""
    model: str
    """Name of the weight file."""
    model_weights: str
    """Identity of its contents."""
    compute: str
    """The number type that it computes in."""
    latents: str
    """Of the constants that latents are normalised with."""
    start_lora: str
    """Name of the LoRA that the run began with, "" for none."""
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` turns back into the same facts."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunFacts:
        """Raises `CheckpointUnreadable` for anything that `to_json` would not have made."""
        kinds = {"image_count": int, "width": int, "height": int, "versions": dict, "settings": dict}
        names = {field.name for field in dataclasses.fields(cls)}
        if set(values) != names or not all(type(values[name]) is kinds.get(name, str) for name in names):
            raise CheckpointUnreadable("what it says about its run is incomplete")
        if not all(isinstance(text, str) for text in values["versions"].values()):
            raise CheckpointUnreadable("what it says about versions is no text")
        try:
            settings = TrainSettings.from_mapping(values["settings"])
        except SettingsError as error:
            raise CheckpointUnreadable(f"its settings are not understood ({error})") from error
        return cls(**{**values, "settings": settings})


def run_facts(settings: TrainSettings, data: TrainingData, patcher: Any, *, start_lora: str) -> RunFacts:
    """The facts of a run that is about to start, or to go on. `patcher` is the model's `ModelPatcher`."""
    return RunFacts(
        settings=settings,
        dataset=data.name,
        image_count=len(data.items),
        width=data.width,
        height=data.height,
        images=_digest(item.latent_key for item in data.items),
        captions=_digest(item.caption for item in data.items),
        texts=_digest(item.text_key for item in data.items),
        model=model_file_name(patcher),
        model_weights=model_identity(patcher),
        compute=str(compute_dtype(patcher)).removeprefix("torch."),
        latents=_latents_identity(settings, data),
        start_lora=start_lora,
        versions={**versions(), "device": host.device_name(patcher.load_device)},
    )


@dataclasses.dataclass(frozen=True)
class Changes:
    """What differs between a run's facts and those of now, as lines for the user."""

    forbidden: list[str]
    questionable: list[str]
    free: list[str]

    @property
    def all(self) -> list[str]:
        return self.forbidden + self.questionable + self.free


def what_changed(before: RunFacts, now: RunFacts, *, step: int) -> Changes:
    """Compare the facts of a run with those of now; `step` is the number of steps done."""
    forbidden, questionable, free = [], [], []
    for name, value in dataclasses.asdict(now.settings).items():
        was = getattr(before.settings, name)
        if value == was:
            continue
        line = f"{name}: {was} before, {value} now"
        if name in FIXED or (name == "steps" and value < step):
            forbidden.append(line)
        elif name in ROUNDING:
            free.append(f"{line}, so results may differ in the last digits")
        elif name in FREE or (name == "steps" and _same_rates(before.settings, value, step)):
            free.append(line)
        else:
            questionable.append(line)
    questionable += [*_dataset_changes(before, now), *_model_changes(before, now)]
    for program in sorted({*before.versions, *now.versions}):
        was, here = before.versions.get(program, "none"), now.versions.get(program, "none")
        if was != here:
            words = f"{_printable(program)}: {_printable(was)} before, {_printable(here)} now"
            free.append(f"{words}, so results may differ in the last digits")
    return Changes(forbidden, questionable, free)


def require_same(run_name: str, changes: Changes, *, step: int, continue_anyway: bool) -> None:
    """Raise `RunChanged` with the list of what changed, when the run must not or should not be gone on with."""
    if changes.forbidden:
        enough = f" (steps: {step} or more)" if any(line.startswith("steps:") for line in changes.forbidden) else ""
        raise RunChanged(
            f"{run_name}, at step {step}, cannot be continued with these changes: {'; '.join(changes.forbidden)}. "
            f"Set them as they were{enough}, or start a new run."
            + (f" Also different: {'; '.join(changes.questionable)}." if changes.questionable else "")
        )
    if changes.questionable and not continue_anyway:
        raise RunChanged(
            f"{run_name}, at step {step}, was started differently: {'; '.join(changes.questionable)}. Set these as "
            'they were, or choose "continue anyway" under if_changed (an advanced input) to go on with the new values '
            "from here, or start a new run."
        )


def _same_rates(settings: TrainSettings, steps: int, done: int) -> bool:
    """Whether another number of steps leaves the learning rate of the steps to come as it was planned."""
    other = dataclasses.replace(settings, steps=steps)
    common = range(done, min(steps, settings.steps))
    beyond = range(max(done, settings.steps), steps)
    return all(learning_rate(settings, step) == learning_rate(other, step) for step in common) and all(
        learning_rate(other, step) == settings.learning_rate for step in beyond
    )


def _dataset_changes(before: RunFacts, now: RunFacts) -> list[str]:
    lines = []
    if before.image_count != now.image_count:
        lines.append(f"images: {before.image_count} before, {now.image_count} now")
    if (before.width, before.height) != (now.width, now.height):
        lines.append(f"resolution: {before.width}x{before.height} before, {now.width}x{now.height} now")
    elif before.image_count == now.image_count and before.images != now.images:
        lines.append("images: other files, another order or another VAE")
    if before.latents != now.latents and before.settings.latent_statistics == now.settings.latent_statistics:
        lines.append("VAE: other latent statistics")
    if before.captions != now.captions:
        lines.append("captions: other words or another order")
    elif before.texts != now.texts:
        lines.append("captions: the same words, encoded by another text encoder or another model")
    return lines


def _model_changes(before: RunFacts, now: RunFacts) -> list[str]:
    if before.model != now.model:
        return [f"model: {_printable(before.model) or 'unnamed'} before, {now.model or 'unnamed'} now"]
    if before.compute != now.compute:
        # Another card or another start option; weights are loaded in that type too, so no more can be compared.
        return [f"model: computes in {_printable(before.compute)} before, {now.compute} now"]
    same = before.model_weights == now.model_weights
    return [] if same else ["model: other weights under the same name, another LoRA on it, or other sampling settings"]


def _latents_identity(settings: TrainSettings, data: TrainingData) -> str:
    statistics = data.statistics(settings.latent_statistics)
    return weights_identity({"shift": statistics.shift, "scale": statistics.scale})


def _printable(text: str) -> str:
    """A text from a file that may be a stranger's, for the screen."""
    return "".join(character if character.isprintable() else "?" for character in text[:80])


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()
