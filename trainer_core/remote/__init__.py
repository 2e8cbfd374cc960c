"""The one way out of this machine: addresses that a user or a client named. No torch, no ComfyUI here.

Every function blocks, the name lookup included, for which the system sets the time: call them in a thread.
"""

from .fetch import MAX_DATA_URI_BYTES, check_url, fetch
from .judge import shown_url
from .network import ALLOW_HOSTS, Network
from .post import post_json

__all__ = ["ALLOW_HOSTS", "MAX_DATA_URI_BYTES", "Network", "check_url", "fetch", "post_json", "shown_url"]
