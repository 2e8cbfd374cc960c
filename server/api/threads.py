"""Threads for what leaves this machine: a host that never answers must not take those that ComfyUI serves with."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

_outside = ThreadPoolExecutor(8, thread_name_prefix="ideogram4-api")


async def outside(work: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Do what asks a name server or another host."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_outside, functools.partial(work, *arguments, **options))
