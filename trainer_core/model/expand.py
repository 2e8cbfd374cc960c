"""A short prompt made into a JSON caption by the text encoder, which is a whole language model.

Ideogram 4 was trained on JSON captions, and its text encoder, Qwen3-VL, can write them: no further model is needed.
What comes back is data from a stranger; `expand_caption` judges it. Whatever happens the picture can be made: without
a usable caption the prompt is used as it is, and a note says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from ..dataset.json_caption import check_json_caption
from ..errors import SettingsError
from . import host
from .expand_caption import Unusable, as_drafted, as_text, quoted_texts, read_caption
from .expand_words import BRIEF, DETAILED, ask, ask_again

MAX_PROMPT = 8000
"""Characters. A longer one leaves little to add."""
PROBE_TOKENS = 48
"""Written first, to see whether a caption begins: an encoder that only writes noise is not left to do so for long."""
SAMPLING = {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.0, "repetition_penalty": 1.0}
"""As Qwen advises for this model, but for penalties: JSON repeats itself."""

AS_IT_IS = "so the prompt is used as it is."
OFF = f"Expansion is off, {AS_IT_IS}"
NO_HEAD = (
    f"This text encoder file has no language head and cannot write prompts, {AS_IT_IS} To expand prompts, use the "
    "full qwen3vl_8b file (qwen3vl_8b_fp8_scaled.safetensors) in Load CLIP."
)
NOT_USABLE = f"The text encoder gave no usable caption, {AS_IT_IS}"

Progress = Callable[[int, int, str], None]
"""Called with (done, total, what)."""


@dataclasses.dataclass(frozen=True)
class Quality:
    """How much work goes into a caption."""

    max_tokens: int
    """Of each reply. A caption that is cut off is not usable."""
    extent: str
    drafts: int
    """Tries for a usable caption."""
    revised: bool
    """Whether a usable draft is shown to the model once more, with the prompt."""


QUALITIES = {
    "medium": Quality(max_tokens=1024, extent=BRIEF, drafts=1, revised=False),
    "large": Quality(max_tokens=3072, extent=DETAILED, drafts=2, revised=True),
}


@dataclasses.dataclass(frozen=True)
class Expansion:
    """The prompt to be used."""

    text: str
    expanded: bool
    """Whether it is another than the one given."""
    note: str
    """What happened, for the person at the screen."""


def expand_prompt(
    clip: Any,
    prompt: str,
    *,
    quality: str,
    seed: int,
    width: int,
    height: int,
    max_tokens: int | None = None,
    progress: Progress = lambda done, total, what: None,
) -> Expansion:
    """A JSON caption of `prompt`, written by ComfyUI's CLIP object, for a picture of `width` x `height` pixels.

    `quality` is one of `QUALITIES`, `seed` from 0 to 2**64 - 1; the same values give the same caption on the same
    device. `max_tokens` takes the place of the quality's. A prompt that is JSON already is kept. Leaves random states
    as they were. Raises `SettingsError` for an unknown quality, and ComfyUI's interrupt.
    """
    if quality not in QUALITIES:
        raise SettingsError(f"The expansion {quality!r} is unknown. Use one of: {', '.join(QUALITIES)}.")
    kind = QUALITIES[quality]
    reason = _nothing_to_do(prompt) or ("" if can_write(clip) else NO_HEAD)
    if reason:
        return Expansion(prompt, False, reason)

    quoted = quoted_texts(prompt)
    conversation = ask(prompt, quoted, width, height, kind.extent)
    limit, passes = max_tokens or kind.max_tokens, kind.drafts + kind.revised
    caption = None
    for attempt in range(kind.drafts):
        progress(attempt, passes, "draft")
        try:
            caption = read_caption(_reply(clip, conversation, seed + attempt, limit), quoted)
            break
        except Unusable as error:
            reason = str(error)
    if caption is None:
        return Expansion(prompt, False, f"{NOT_USABLE} Reason: {reason}.")

    note = f"Expanded by the text encoder ({quality})."
    if kind.revised:
        progress(kind.drafts, passes, "revision")
        try:
            again = ask_again(conversation, as_drafted(caption))
            caption = read_caption(_reply(clip, again, seed + kind.drafts, limit), quoted)
        except Unusable as error:
            note = f"{note} This is the draft, because its revision was not usable: {error}."
    return Expansion(as_text(caption), True, note)


def can_write(clip: Any) -> bool:
    """Whether a CLIP object can write text: not the file without the head that turns features into words."""
    encoder = clip.cond_stage_model
    part = getattr(encoder, getattr(encoder, "clip", ""), encoder)
    transformer = getattr(part, "transformer", part)
    if not callable(getattr(transformer, "generate", None)):
        return False
    # ComfyUI's Ideogram 4 encoder of the file without pictures has `generate` too, but neither last norm nor head.
    network = getattr(transformer, "model", transformer)
    head = getattr(network, "lm_head", None) or getattr(network, "embed_tokens", network)
    return getattr(network, "norm", network) is not None and getattr(head, "weight", network) is not None


def _nothing_to_do(prompt: str) -> str:
    """Why a prompt is used as it is, or ""."""
    findings = check_json_caption(prompt)
    if findings is not None:
        broken = next((finding for finding in findings if finding.startswith("begins like JSON")), "")
        if not broken:
            return f"The prompt is JSON already, {AS_IT_IS}"
        if prompt.lstrip()[1:].lstrip().startswith('"'):  # a slip in a caption, and not "{a|b} in the rain"
            return f"The prompt {broken}, {AS_IT_IS}"
    if not prompt.strip():
        return f"The prompt is empty, {AS_IT_IS}"
    if len(prompt) > MAX_PROMPT:
        return f"The prompt has {len(prompt)} characters, more than the {MAX_PROMPT} that are expanded, {AS_IT_IS}"
    return ""


def _reply(clip: Any, conversation: str, seed: int, max_tokens: int) -> str:
    """What the text encoder answers. Raises `Unusable` when it does not begin a caption, and ComfyUI's interrupt."""
    reply = ""
    device = clip.patcher.load_device
    with torch.inference_mode(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for limit in sorted({min(PROBE_TOKENS, max_tokens), max_tokens}):
            host.raise_if_interrupted()
            tokens = clip.tokenize(conversation)
            ids = clip.generate(tokens, do_sample=True, max_length=limit, seed=seed % 2**64, **SAMPLING)
            reply = clip.decode(ids)
            if "{" not in reply and "<think>" not in reply:
                raise Unusable("it holds no JSON caption")
            if len(ids) < limit:
                break  # it has come to its end
    return reply
