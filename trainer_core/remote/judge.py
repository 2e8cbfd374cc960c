"""What a URL must be before anything is sent to it.

Covered: https alone, no credentials, every address that a name resolves to is judged (`addresses.py`).
Not covered: a resolver that hangs (the system's own time limit ends it); a public server that passes requests on into
a private network; what the name server learns from the question.
"""

from __future__ import annotations

import re
import socket
from urllib.parse import SplitResult, urlsplit

from .addresses import is_number
from .advice import Advice
from .network import Network

MAX_URL_LENGTH = 8192


class Refused(Exception):
    """Why an address cannot be used, and what to do about it, told without the address; never leaves this room."""


def is_data_uri(url: str) -> bool:
    return url[:5].lower() == "data:"


def shown_url(url: str) -> str:
    """A URL for messages: without its query, which may hold a signature, and without credentials."""
    try:
        parts = urlsplit(url[:MAX_URL_LENGTH])  # Python keeps what it has parsed last
        port = re.search(r":\d{1,5}$", parts.netloc)
        text = f"{parts.scheme}://{parts.hostname or ''}{port[0] if port else ''}{parts.path}"
        text = text if parts.scheme else parts.path
    except ValueError:
        text = "given"
    return ascii(text[:200])[1:-1]


def named(url: str) -> str:
    """A URL as the subject of a message."""
    return "The data URI" if is_data_uri(url) else f"The URL {shown_url(url)}"


def judged_url(url: str, advice: Advice) -> SplitResult:
    """Check everything about a URL that can be checked without the network. Raises `Refused`."""
    if len(url) > MAX_URL_LENGTH:
        raise Refused(f"is longer than {MAX_URL_LENGTH} characters; use a shorter one")
    if any(ord(character) <= 0x20 or ord(character) == 0x7F for character in url):
        raise Refused("contains spaces or control characters; write them percent-encoded")
    if any(0xD800 <= ord(character) <= 0xDFFF for character in url):
        raise Refused("contains what is no text; write it percent-encoded")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused("is not a valid URL; check its spelling") from None
    if parts.scheme != "https":
        raise Refused(f"is not an https URL; {advice.not_https}")
    if parts.username is not None or parts.password is not None:
        raise Refused(f"contains a user name or password, which is not allowed; {advice.with_password}")
    if not parts.hostname or port == 0:
        raise Refused("names no server; check its spelling")
    return parts


def place_of(parts: SplitResult) -> tuple[str, int]:
    """Host, as it is looked up, and port. Raises `Refused`."""
    try:
        return (parts.hostname or "").encode("idna").decode("ascii"), parts.port or 443
    except UnicodeError:
        raise Refused("names no valid server; check its spelling") from None


def judged_addresses(parts: SplitResult, network: Network, advice: Advice) -> list[str]:
    """Every address of the URL's host, all of them allowed; a name with one that is not is refused as a whole."""
    host, port = place_of(parts)
    try:
        found = network.resolve(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Refused("names a server that cannot be found; check its spelling and your connection") from None
    addresses = list(dict.fromkeys(entry[4][0] for entry in found))
    is_allowed = is_number if network.may_be_private(host, port) else network.is_allowed
    if not addresses or not all(is_allowed(address) for address in addresses):
        raise Refused(f"leads to a private or reserved address, which is not allowed; {advice.private}")
    return addresses
