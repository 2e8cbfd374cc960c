"""What the user is told when a run goes on, and when it ends early."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import DoesNotFit, NonFinite


def resume_words(run: str, step: int, steps: int, changes: Sequence[str], unused_lora: str) -> str:
    """On opening a run: where it goes on, and what is different from before."""
    words = f"Going on with {run} from step {step} of {steps}."
    if step >= steps:
        words = f"{run} is complete at step {step}; this is its LoRA. For more, raise steps."
    if changes:
        words += f" Changed: {'; '.join(changes)}."
    if unused_lora:
        words += f" {unused_lora} is not used: only a new run starts from a LoRA."
    return words


def stop_words(done: int, saved: int, steps: int, refusal: str) -> str:
    """How far a run got, and why less than that is on disk."""
    if refusal and done > saved:
        return f"Stopped at step {done} of {steps}, of which {saved} are saved. {refusal}"
    return f"Stopped at step {saved} of {steps}."


def remedy(reason: str, run: str) -> str:
    """How to go on. reason: an error's code, or another word."""
    change = {
        NonFinite.code: ' change what is advised, set if_changed to "continue anyway",',
        DoesNotFit.code: ' lower batch size or resolution (the rank is fixed), set if_changed to "continue anyway",',
    }.get(reason, "")
    return f"To go on, choose {run} under resume{',' if change else ''}{change} and run again."


def unsaved_words(step: int, steps: int, refusal: str) -> str:
    """When the end of a run is not on disk, and its LoRA goes on to the save node all the same."""
    end = "Training is complete" if step >= steps else f"Training was stopped at step {step}, as asked"
    return (
        f"{end}, but that is not on disk. {refusal} Make room and press Run again before ComfyUI is closed: the "
        "trained LoRA is still in its memory, and nothing is trained twice."
    )


def kept_words(run: str, step: int, steps: int) -> str:
    """After stop and keep."""
    return (
        f"Stopped at step {step} of {steps}, as asked; this is its LoRA. To go on, choose {run} under resume and run "
        "again."
    )


def best_words(step: int, lora_words: str) -> str:
    """Which step did best on the images held out, "" where nothing was measured or the last step did."""
    if step == 0:
        return (
            "On the images held out no measurement was better than the base model's. Fewer steps, a lower learning "
            "rate or more varied images may help."
        )
    if step < 0 or not lora_words:
        return ""
    return f"On the images held out step {step} did best. {lora_words}"
