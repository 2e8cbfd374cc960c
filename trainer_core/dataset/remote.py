"""A dataset from an https URL or a base64 data URI. Call it only for a URL that the user typed or sent themselves.

Covered: https alone, certificates verified; every address that a name resolves to is judged (`addresses.py`), and the
connection goes to a judged address, so a second answer of the resolver changes nothing; every redirect is judged like
a new URL; the bytes of the body are counted while they pass, and time on every step of the way; no credentials in
URLs, and no query strings in messages; proxies of the environment are ignored; compressed transfers are refused; data
URIs have a cap.
Not covered: a resolver that hangs (the system's own time limit ends it); a public server that passes requests on into
a private network; certificates that the environment adds to the trusted ones (SSL_CERT_FILE).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import http.client
import io
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from ..errors import DatasetUnreadable
from .addresses import is_public
from .refusal import Refused

MAX_DOWNLOAD_BYTES = 16 * 2**30
"""Thousands of camera originals; a zip is kept on disk while its dataset is in use."""
MAX_DATA_URI_BYTES = 256 * 2**20
"""Decoded. A data URI lies in memory, several times over; more belongs in a file."""
DOWNLOAD_TIMEOUT_S = 3600.0
"""From the first name lookup to the last byte."""
MAX_REDIRECTS = 5
MAX_URL_LENGTH = 8192

_CHUNK_BYTES = 256 * 2**10
_CONNECT_TIMEOUT_S = 20.0
_URL_SAFE = "/?%:@!$&'()*+,;=~"  # what stays as it is in a path or query; all else is percent-encoded
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclasses.dataclass(frozen=True)
class Network:
    """How the outside world is reached; tests put their own in place."""

    resolve: Callable[..., list[Any]] = socket.getaddrinfo
    connect: Callable[..., socket.socket] = socket.create_connection
    is_allowed: Callable[[str], bool] = is_public
    tls_context: Callable[[], ssl.SSLContext] = ssl.create_default_context


@dataclasses.dataclass(frozen=True)
class _Limits:
    max_bytes: int
    deadline: float
    """In the time of `time.monotonic`."""

    def remaining_s(self) -> float:
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise Refused("takes too long; download it yourself and upload the zip")
        return remaining

    def check_bytes(self, count: int) -> None:
        if count > self.max_bytes:
            raise Refused(f"is larger than {self.max_bytes:,} bytes; upload the zip, or split it")


def fetch_dataset(
    url: str,
    *,
    folder: Path | None = None,
    max_bytes: int = MAX_DOWNLOAD_BYTES,
    timeout_s: float = DOWNLOAD_TIMEOUT_S,
    network: Network | None = None,
    progress: Callable[[int], None] = lambda received_bytes: None,
) -> bytes | Path:
    """The zip behind a `data:` URI (as bytes) or an https URL (as a new file in `folder`, which the caller removes).

    `folder` defaults to the system's for temporary files. `progress` is called with the bytes received so far;
    whatever it raises ends the download. Nothing is left behind on failure. Raises `DatasetUnreadable`.
    """
    if url[:5].lower() == "data:":
        try:
            return _decode_data_uri(url, min(max_bytes, MAX_DATA_URI_BYTES))
        except Refused as refusal:
            raise DatasetUnreadable(f"The data URI {refusal}.") from None
    limits = _Limits(max_bytes, time.monotonic() + timeout_s)
    handle, path = tempfile.mkstemp(prefix="dataset-", suffix=".zip", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            _download(url, file, limits, network or Network(), progress)
    except BaseException:
        os.unlink(path)
        raise
    return Path(path)


def _decode_data_uri(uri: str, max_bytes: int) -> bytes:
    header, comma, text = uri.partition(",")
    if not comma or not header.lower().endswith(";base64"):
        raise Refused("is not base64; begin it with data:application/zip;base64, and go on with the encoded zip")
    if len(text) > max_bytes * 4 // 3 + 4:
        raise Refused(f"is larger than {max_bytes:,} bytes; upload the zip instead")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("is not valid base64; encode the zip again") from None
    if len(data) > max_bytes:
        raise Refused(f"is larger than {max_bytes:,} bytes; upload the zip instead")
    return data


# ---- https ---------------------------------------------------------------------------------------------------


def _download(url: str, file: BinaryIO, limits: _Limits, network: Network, progress: Callable[[int], None]) -> None:
    """Follow `url` to its end and write what is there to `file`."""
    for _ in range(MAX_REDIRECTS + 1):
        shown = _shown(url)
        try:
            parts = _judged_url(url)
            with _response(parts, limits, network) as response:
                if response.status not in _REDIRECTS:
                    _receive(response, file, limits, progress)
                    return
                url = _redirected(url, response.getheader("Location") or "")
        except Refused as refusal:
            raise DatasetUnreadable(f"The URL {shown} {refusal}.") from None
        except ssl.SSLCertVerificationError as error:
            message = f"The URL {shown} has no valid certificate: {error.verify_message}. Check the address."
            raise DatasetUnreadable(message) from None
        except TimeoutError:
            message = f"The URL {shown} takes too long. Try again, or download it yourself and upload the zip."
            raise DatasetUnreadable(message) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise DatasetUnreadable(f"The URL {shown} cannot be downloaded: {reason}.") from error
    raise DatasetUnreadable(f"The URL {shown} redirects more than {MAX_REDIRECTS} times. Use the final address.")


def _redirected(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise Refused("redirects to something that is no valid URL; use the final address") from None


def _shown(url: str) -> str:
    """A URL for messages: without its query, which may hold a signature, and without credentials."""
    try:
        parts = urlsplit(url)
        text = f"{parts.scheme}://{parts.hostname or ''}{parts.path}" if parts.scheme else parts.path
    except ValueError:
        text = "given"
    return ascii(text[:200])[1:-1]


def _judged_url(url: str) -> SplitResult:
    """Check everything about a URL that can be checked without the network."""
    if len(url) > MAX_URL_LENGTH:
        raise Refused(f"is longer than {MAX_URL_LENGTH} characters; use a shorter one")
    if any(ord(character) <= 0x20 or ord(character) == 0x7F for character in url):
        raise Refused("contains spaces or control characters; write them percent-encoded")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused("is not a valid URL; check its spelling") from None
    if parts.scheme != "https":
        raise Refused("is not an https URL; use https, or upload the zip")
    if parts.username is not None or parts.password is not None:
        raise Refused("contains a user name or password, which is not allowed; use a signed URL, or upload the zip")
    if not parts.hostname or port == 0:
        raise Refused("names no server; check its spelling")
    return parts


@contextlib.contextmanager
def _response(parts: SplitResult, limits: _Limits, network: Network) -> Iterator[http.client.HTTPResponse]:
    """Ask for the URL at one of its judged addresses; the response's body is not read yet."""
    host = _ascii_host(parts.hostname or "")
    port = parts.port or 443
    raw = _connect(_judged_addresses(host, port, limits, network), port, limits, network)
    with raw:
        raw.settimeout(limits.remaining_s())
        with network.tls_context().wrap_socket(raw, server_hostname=host) as secure:
            secure.settimeout(limits.remaining_s())
            secure.sendall(_request(parts, host))
            source: Any = _SocketLike(_TimedStream(secure, limits))
            with http.client.HTTPResponse(source, method="GET") as response:
                response.begin()
                yield response


def _ascii_host(host: str) -> str:
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        raise Refused("names no valid server; check its spelling") from None


def _judged_addresses(host: str, port: int, limits: _Limits, network: Network) -> list[str]:
    """Every address of `host`, all of them allowed; a name with one address that is not is refused as a whole."""
    limits.remaining_s()
    try:
        found = network.resolve(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Refused("names a server that cannot be found; check its spelling and your connection") from None
    addresses = list(dict.fromkeys(entry[4][0] for entry in found))
    if not addresses or not all(network.is_allowed(address) for address in addresses):
        raise Refused("leads to a private or reserved address, which is not allowed; upload the zip instead")
    return addresses


def _connect(addresses: list[str], port: int, limits: _Limits, network: Network) -> socket.socket:
    """Connect to the first address that answers; addresses are numbers, so nothing is resolved again."""
    failure: OSError | None = None
    for address in addresses:
        try:
            return network.connect((address, port), timeout=min(_CONNECT_TIMEOUT_S, limits.remaining_s()))
        except OSError as error:
            failure = error
    raise failure or OSError("no address")


def _request(parts: SplitResult, host: str) -> bytes:
    target = quote(parts.path or "/", safe=_URL_SAFE)
    if parts.query:
        target += "?" + quote(parts.query, safe=_URL_SAFE)
    bracketed = f"[{host}]" if ":" in host else host
    authority = bracketed if parts.port in (None, 443) else f"{bracketed}:{parts.port}"
    lines = (
        f"GET {target} HTTP/1.1",
        f"Host: {authority}",
        "User-Agent: ideogram4-lora-trainer",
        "Accept: */*",
        "Accept-Encoding: identity",
        "Connection: close",
        "",
        "",
    )
    return "\r\n".join(lines).encode("ascii")


def _receive(
    response: http.client.HTTPResponse, file: BinaryIO, limits: _Limits, progress: Callable[[int], None]
) -> None:
    """Write the body to `file`, counting; what the server says about its length only makes us stop earlier."""
    if response.status != 200:
        answer = f"{response.status} {response.reason[:60]!r}"
        raise Refused(f"was answered with {answer}; check that it is public and current")
    if response.getheader("Content-Encoding", "identity").lower() != "identity":
        raise Refused("is sent compressed, which was not asked for; download it yourself and upload the zip")
    declared = response.length
    limits.check_bytes(declared or 0)
    received = 0
    while chunk := response.read1(_CHUNK_BYTES):
        received += len(chunk)
        limits.check_bytes(received)
        limits.remaining_s()
        file.write(chunk)
        progress(received)
    if declared is not None and received != declared:
        raise Refused("broke off before its end; try again")


class _TimedStream(io.RawIOBase):
    """What a TLS socket receives; every wait ends at the deadline, however slowly the bytes drip."""

    def __init__(self, secure: ssl.SSLSocket, limits: _Limits) -> None:
        self._secure = secure
        self._limits = limits

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._secure.settimeout(self._limits.remaining_s())
        return self._secure.recv_into(buffer)


class _SocketLike:
    """The one method of a socket that `HTTPResponse` uses."""

    def __init__(self, stream: _TimedStream) -> None:
        self._stream = stream

    def makefile(self, mode: str) -> BinaryIO:
        return io.BufferedReader(self._stream)
