"""What the user has set for the HTTP API, kept where ComfyUI's own file routes do not reach.

Covered: a file that is missing, damaged or of a newer version (what cannot be read counts as not set). The key itself
is never kept, only its SHA-256: keys are long and random, so it cannot be found from that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import folder_paths

from ...trainer_core.storage import open_regular, replace_file

KEY_VARIABLE = "IDEOGRAM4_API_KEY"
MIN_KEY_LENGTH = 16
MAX_FILE_BYTES = 2**20
MODEL_KINDS = ("diffusion_model", "unconditional", "text_encoder", "vae")
DEFAULT_MAX_IMAGES, LARGEST_MAX_IMAGES = 100, 10_000


def api_folder() -> Path:
    """Where the API keeps what is its own."""
    return Path(folder_paths.get_system_user_directory("ideogram4_lora_trainer")) / "api"


@dataclasses.dataclass(frozen=True)
class ApiSettings:
    """All of it is optional; without a key the API is off."""

    key_sha256: str = ""
    models: dict[str, str] = dataclasses.field(default_factory=dict)
    """File names by `MODEL_KINDS`, for whoever's are not the standard ones."""
    max_images: int = DEFAULT_MAX_IMAGES
    """In a dataset on Ideogram's routes."""

    @staticmethod
    def load(folder: Path | None = None) -> ApiSettings:
        values: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError, RecursionError):
            with open_regular((folder or api_folder()) / "settings.json", os.O_RDONLY) as file:
                read = json.loads(file.read(MAX_FILE_BYTES))
            values = read if isinstance(read, dict) else {}
        key, models, most = values.get("key_sha256"), values.get("models"), values.get("max_images")
        models = models if isinstance(models, dict) else {}
        return ApiSettings(
            key_sha256=key if isinstance(key, str) and re.fullmatch("[0-9a-f]{64}", key) else "",
            models={kind: name for kind, name in models.items() if kind in MODEL_KINDS and isinstance(name, str)},
            max_images=most if type(most) is int and 0 < most <= LARGEST_MAX_IMAGES else DEFAULT_MAX_IMAGES,
        )

    def save(self, folder: Path | None = None) -> None:
        """Raises `SaveFailed`."""
        path = (folder or api_folder()) / "settings.json"
        replace_file(path, [json.dumps(dataclasses.asdict(self), indent=2).encode()])
        with contextlib.suppress(OSError):
            path.chmod(0o600)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def key_of_environment() -> str:
    return os.environ.get(KEY_VARIABLE, "").strip()


def valid_digest(settings: ApiSettings) -> str:
    """SHA-256 of the key that opens the API, "" where none is set. The environment's counts before the page's.

    A key that is too short to be safe counts as none.
    """
    own = key_of_environment()
    if own:
        return digest(own) if len(own) >= MIN_KEY_LENGTH else ""
    return settings.key_sha256
