"""What is behind an https URL or a base64 data URI. Call it only for one that the user typed or sent themselves.

Covered: the rules of `judge.py` and `connection.py`, for every redirect as for a new URL; the bytes of the body are
counted while they pass, and time on every step of the way; no query strings in messages; compressed transfers are
refused; data URIs have a cap.
Not covered: what the bytes are. Whoever asked for them judges that.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import os
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin

from ..errors import RemoteRefused
from . import connection
from .advice import ADVICE, Advice, What
from .connection import Deadline
from .judge import Refused, is_data_uri, judged_addresses, judged_url, named
from .network import Network

MAX_DATA_URI_BYTES = 256 * 2**20
"""Decoded. A data URI lies in memory, several times over; more belongs in a file."""
TIMEOUT_S = 3600.0
"""From the first name lookup to the last byte."""
MAX_REDIRECTS = 5

_CHUNK_BYTES = 256 * 2**10
_REDIRECTS = (301, 302, 303, 307, 308)


def fetch(
    url: str,
    *,
    max_bytes: int,
    folder: Path | None = None,
    timeout_s: float = TIMEOUT_S,
    what: What = "dataset",
    suffix: str = ".zip",
    network: Network | None = None,
    progress: Callable[[int], None] = lambda received_bytes: None,
) -> bytes | Path:
    """What is behind a `data:` URI (as bytes) or an https URL (as a new file in `folder`, which the caller removes).

    `folder` defaults to the system's for temporary files. `what` chooses the advice in messages, and whether data URIs
    are accepted (not for LoRAs). `progress` is called with the bytes received so far; whatever it raises ends the
    download. Nothing is left behind on failure. Raises `RemoteRefused`.
    """
    advice = ADVICE[what]
    if is_data_uri(url) and advice.media_type:
        return _decoded(url, min(max_bytes, MAX_DATA_URI_BYTES), advice)
    network, deadline = network or Network(), Deadline(timeout_s)
    handle, path = tempfile.mkstemp(prefix=f"{what}-", suffix=suffix, dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            transfer = _Transfer(file, max_bytes, deadline, advice, progress)
            _download(url, transfer, network)
    except BaseException:
        os.unlink(path)
        raise
    return Path(path)


def check_url(url: str, *, network: Network | None = None, what: What = "dataset") -> None:
    """Raise `RemoteRefused` for whatever `fetch` or `post_json` would refuse before it connects.

    The name is looked up, nothing is connected to. A data URI is decoded, so that its form is known to be right.
    """
    advice = ADVICE[what]
    if is_data_uri(url) and advice.media_type:
        _decoded(url, MAX_DATA_URI_BYTES, advice)
        return
    try:
        judged_addresses(judged_url(url, advice), network or Network(), advice)
    except Refused as refusal:
        raise RemoteRefused(f"{named(url)} {refusal}.") from None


# ---- data URIs -----------------------------------------------------------------------------------------------


def _decoded(uri: str, max_bytes: int, advice: Advice) -> bytes:
    try:
        return _decode(uri, max_bytes, advice)
    except Refused as refusal:
        raise RemoteRefused(f"{named(uri)} {refusal}.") from None


def _decode(uri: str, max_bytes: int, advice: Advice) -> bytes:
    header, comma, text = uri.partition(",")
    if not comma or not header.lower().endswith(";base64"):
        start = f"data:{advice.media_type};base64,"
        raise Refused(f"is not base64; begin it with {start} and go on with the encoded {advice.thing}")
    if len(text) > max_bytes * 4 // 3 + 4:
        raise Refused(f"is larger than {max_bytes:,} bytes; {advice.data_uri_too_large}")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(f"is not valid base64; encode the {advice.thing} again") from None
    if len(data) > max_bytes:
        raise Refused(f"is larger than {max_bytes:,} bytes; {advice.data_uri_too_large}")
    return data


# ---- https ---------------------------------------------------------------------------------------------------


class _Transfer:
    """Where a body goes, and how much of it, how long."""

    def __init__(
        self, file: BinaryIO, max_bytes: int, deadline: Deadline, advice: Advice, progress: Callable[[int], None]
    ) -> None:
        self.file, self.max_bytes, self.deadline = file, max_bytes, deadline
        self.advice, self.progress = advice, progress

    def check_bytes(self, count: int) -> None:
        if count > self.max_bytes:
            raise Refused(f"is larger than {self.max_bytes:,} bytes; {self.advice.too_large}")


def _download(url: str, transfer: _Transfer, network: Network) -> None:
    """Follow `url` to its end and write what is there."""
    by_hand = transfer.advice.by_hand
    for _ in range(MAX_REDIRECTS + 1):
        subject = named(url)
        try:
            parts = judged_url(url, transfer.advice)
            with connection.request(parts, transfer.deadline, network, transfer.advice) as response:
                if response.status not in _REDIRECTS:
                    _receive(response, transfer)
                    return
                url = _redirected(url, response.getheader("Location") or "")
        except Refused as refusal:
            raise RemoteRefused(f"{subject} {refusal}.") from None
        except ssl.SSLCertVerificationError as error:
            message = f"{subject} has no valid certificate: {error.verify_message}. Check the address."
            raise RemoteRefused(message) from None
        except TimeoutError:
            raise RemoteRefused(f"{subject} takes too long. Try again, or {by_hand}.") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise RemoteRefused(f"{subject} cannot be downloaded: {reason}.") from error
    raise RemoteRefused(f"{named(url)} redirects more than {MAX_REDIRECTS} times. Use the final address.")


def _redirected(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise Refused("redirects to something that is no valid URL; use the final address") from None


def _receive(response: http.client.HTTPResponse, transfer: _Transfer) -> None:
    """Write the body, counting; what the server says about its length only makes us stop earlier."""
    if response.status != 200:
        answer = f"{response.status} {response.reason[:60]!r}"
        raise Refused(f"was answered with {answer}; check that it is public and current")
    if response.getheader("Content-Encoding", "identity").lower() != "identity":
        raise Refused(f"is sent compressed, which was not asked for; {transfer.advice.by_hand}")
    declared = response.length
    transfer.check_bytes(declared or 0)
    received = 0
    while chunk := response.read1(_CHUNK_BYTES):
        received += len(chunk)
        transfer.check_bytes(received)
        transfer.deadline.remaining_s()
        transfer.file.write(chunk)
        transfer.progress(received)
    if declared is not None and received != declared:
        raise Refused("broke off before its end; try again")
