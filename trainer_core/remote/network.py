"""How the outside world is reached, and which private hosts the owner of this machine has opened."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Callable
from typing import Any

from ..errors import RemoteRefused
from .addresses import is_public

ALLOW_HOSTS = "IDEOGRAM4_ALLOW_HOSTS"
"""Environment variable: hosts that may be reached although their addresses are private, `nas.lan,localhost:9443`.

`host` allows every port of it, `host:port` that port alone. The whole name is compared, whatever its case. All other
rules stay, and a redirect to a private host that is not in the list is refused.
"""

_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")


def hosts_of_environment() -> frozenset[tuple[str, int | None]]:
    """The entries of `ALLOW_HOSTS` as (host, port); port None stands for all. Raises `RemoteRefused`."""
    entries = [entry.strip() for entry in os.environ.get(ALLOW_HOSTS, "").split(",")]
    return frozenset(_entry(entry, number) for number, entry in enumerate(entries, 1) if entry)


def _entry(text: str, number: int) -> tuple[str, int | None]:
    match = re.fullmatch(r"\[([^\[\]]*)\](?::([0-9]+))?|([^\[\]:]*)(?::([0-9]+))?", text)
    try:
        if match is None:
            host, digits = str(ipaddress.IPv6Address(text)), None
        else:
            host, digits = match[1] or match[3] or "", match[2] or match[4]
            host = str(ipaddress.IPv6Address(host)) if match[1] else comparable(host.encode("idna").decode("ascii"))
        port = None if digits is None else int(digits)
        if not (_NAME.fullmatch(host) or ":" in host) or not (port is None or 0 < port < 2**16):
            raise ValueError(text)
    except ValueError:
        # The entry is not repeated: whoever called the HTTP API reads this too.
        raise RemoteRefused(
            f"Addresses cannot be judged: entry {number} of {ALLOW_HOSTS} is neither a host nor host:port. The owner "
            "of this server can put it right: nas.lan,localhost:9443 is how it is written."
        ) from None
    return host, port


def comparable(host: str) -> str:
    """A host as the list has it: names in lower case, IPv6 in its shortest form."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower()


@dataclasses.dataclass(frozen=True)
class Network:
    """How the outside world is reached; tests put their own in place."""

    resolve: Callable[..., list[Any]] = socket.getaddrinfo
    connect: Callable[..., socket.socket] = socket.create_connection
    is_allowed: Callable[[str], bool] = is_public
    tls_context: Callable[[], ssl.SSLContext] = ssl.create_default_context
    allowed_hosts: frozenset[tuple[str, int | None]] = dataclasses.field(default_factory=hosts_of_environment)
    """(host, port or None for all) that may be private."""

    def may_be_private(self, host: str, port: int) -> bool:
        name = comparable(host)
        return (name, None) in self.allowed_hosts or (name, port) in self.allowed_hosts
