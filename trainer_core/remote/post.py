"""A message to an address that a client named: a webhook.

Covered: the rules of `judge.py` and `connection.py`; no redirect is followed; the answer is cut off.
Not covered: what the other side makes of it, and whether it is who it says beyond its certificate.
"""

from __future__ import annotations

import http.client

from ..errors import RemoteRefused
from . import connection
from .advice import ADVICE
from .connection import Deadline
from .judge import Refused, judged_url, named
from .network import Network

MAX_ANSWER_BYTES = 64 * 2**10
"""Headers included. Only the status is of interest."""


def post_json(url: str, body: bytes, *, timeout_s: float = 15.0, network: Network | None = None) -> int:
    """POST `body`, which is JSON, and return the HTTP status, whatever it is: 302 is returned, not followed.

    `timeout_s` is for everything but the name lookup. Raises `RemoteRefused` for a URL that the rules forbid, and
    OSError (`TimeoutError`, `ssl.SSLError`, `ConnectionError`) where it cannot be delivered at this time.
    """
    advice = ADVICE["webhook"]
    network, deadline = network or Network(), Deadline(timeout_s)
    try:
        parts = judged_url(url, advice)
        with connection.request(parts, deadline, network, advice, body=body, max_bytes=MAX_ANSWER_BYTES) as response:
            return response.status
    except Refused as refusal:
        raise RemoteRefused(f"{named(url)} {refusal}.") from None
    except http.client.HTTPException as error:
        raise ConnectionError(f"{named(url)} does not answer as a web server: {type(error).__name__}.") from error
