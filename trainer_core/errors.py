"""Errors that are written for the person at the screen.

Every message says what happened, in which file or value, and what to do next. `code` is the stable name by
which a program (the HTTP API, a test) tells one failure from another; the words may change, the code does not.
Anything that is not a `UserError` is a defect of ours and is shown as one.
"""


class UserError(Exception):
    """Something the user can put right. `str(error)` is the whole message."""

    code = "user_error"


class SettingsError(UserError):
    """A setting is out of its range or contradicts another."""

    code = "settings_rejected"


class RemoteRefused(UserError):
    """A URL or data URI that may not be used, or what is behind it cannot be had."""

    code = "url_refused"


# ---- dataset -------------------------------------------------------------------------------------------------


class DatasetUnreadable(UserError):
    """The zip, folder, URL or data URI cannot be opened or breaks a limit."""

    code = "dataset_unreadable"


class DatasetNotFetched(DatasetUnreadable):
    """An address may not be called, or does not give the zip."""

    code = "url_refused"


class NoImagesFound(UserError):
    code = "no_images_found"


class MissingCaptions(UserError):
    code = "missing_captions"


class ImageUnreadable(UserError):
    """An image is broken, too large to decode or of a format that is not accepted."""

    code = "image_unreadable"


class ImageTooSmall(UserError):
    code = "image_too_small"


class ResolutionRejected(UserError):
    code = "resolution_rejected"


# ---- model ---------------------------------------------------------------------------------------------------


class WrongModel(UserError):
    """Not an Ideogram 4 diffusion model, or one that cannot be trained as it is."""

    code = "wrong_model"


class WrongVae(UserError):
    code = "wrong_vae"


class WrongTextEncoder(UserError):
    code = "wrong_text_encoder"


class DoesNotFit(UserError):
    """The run needs more memory than the device has."""

    code = "does_not_fit"


# ---- training ------------------------------------------------------------------------------------------------


class TrainingDataMismatch(UserError):
    """The encoded data belongs to another model, VAE or resolution than the one connected."""

    code = "training_data_mismatch"


class SelfCheckFailed(UserError):
    """The check before step 1 found that training would not produce a usable LoRA."""

    code = "self_check_failed"


class NonFinite(UserError):
    """A loss, gradient or weight is NaN or infinite."""

    code = "non_finite"


class RunNotFound(UserError):
    """There is no run of that name, or none of its checkpoints is whole."""

    code = "run_not_found"


class RunChanged(UserError):
    """The run to go on with was started with other data, settings or another model."""

    code = "run_changed"


class RunInUse(UserError):
    """Another process is training this run."""

    code = "run_in_use"


class CheckpointUnreadable(UserError):
    """A checkpoint is damaged, incomplete or was written by a newer version."""

    code = "checkpoint_unreadable"


# ---- files ---------------------------------------------------------------------------------------------------


class LoraUnreadable(UserError):
    """Not a safetensors file, or one whose LoRA layout is not understood."""

    code = "lora_unreadable"


class LoraMismatch(UserError):
    """A readable LoRA that does not fit the connected model, wholly or in part."""

    code = "lora_mismatch"


class SaveFailed(UserError):
    """A file could not be written: no space, no permission, or contents that must not be saved.

    `reason` is the message without the advice, for a place where another advice is right.
    """

    code = "save_failed"

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(f"{reason} {advice}".strip())
        self.reason = reason
