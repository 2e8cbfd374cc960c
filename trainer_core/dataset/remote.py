"""A dataset from an https URL or a base64 data URI, by the rules of `trainer_core/remote/`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import DatasetNotFetched, RemoteRefused
from ..remote import Network, fetch

MAX_DOWNLOAD_BYTES = 16 * 2**30
"""Thousands of camera originals; a zip is kept on disk while its dataset is in use."""
DOWNLOAD_TIMEOUT_S = 3600.0
"""From the first name lookup to the last byte."""


def fetch_dataset(
    url: str,
    *,
    folder: Path | None = None,
    max_bytes: int = MAX_DOWNLOAD_BYTES,
    timeout_s: float = DOWNLOAD_TIMEOUT_S,
    network: Network | None = None,
    progress: Callable[[int], None] = lambda received_bytes: None,
) -> bytes | Path:
    """The zip behind a URL, as `remote.fetch` gives it. Raises `DatasetNotFetched`."""
    try:
        return fetch(url, folder=folder, max_bytes=max_bytes, timeout_s=timeout_s, network=network, progress=progress)
    except RemoteRefused as refusal:
        raise DatasetNotFetched(str(refusal)) from refusal
