"""Which network addresses a user's URL may lead to: public ones only, by a list of our own.

`ipaddress.is_global` calls multicast global, and also 64:ff9b::7f00:1, which a NAT64 gateway turns into 127.0.0.1.
Sources: IANA's registries of special-purpose IPv4 and IPv6 addresses (RFC 6890 and what has been added since).

Covered: loopback, private, link-local (cloud metadata services), carrier-grade NAT, documentation, benchmarking,
multicast, reserved, 6to4, Teredo; IPv4 addresses mapped or translated into IPv6 are judged as what they lead to.
Not covered: a public address that the machine's own network routes to itself, and translation prefixes that a network
has made up for itself.
"""

from __future__ import annotations

import ipaddress

_NOT_PUBLIC_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, with the metadata services of clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocols
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, with the broadcast address
    )
)
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")  # all that is handed out for use on the internet
_NOT_PUBLIC_V6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocols, with Teredo
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_HOLDS_V4 = (ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("64:ff9b::/96"))  # mapped; NAT64


def is_number(text: str) -> bool:
    """Whether `text` is a numeric address, which a connection can go to without another look-up."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Whether a numeric address, as a resolver returns it, belongs to the public internet."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            return False
        if not any(ip in network for network in _HOLDS_V4):
            return ip in _PUBLIC_V6 and not any(ip in network for network in _NOT_PUBLIC_V6)
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return not any(ip in network for network in _NOT_PUBLIC_V4)
