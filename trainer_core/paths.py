"""Joining a root with a user's text, the one way it is done here.

Covered: absolute paths, `..`, drive letters, backslashes, NUL, and symbolic links that lead out of the root.
Not covered: a link that is swapped between this check and the use of the path.
"""

from __future__ import annotations

import os
from pathlib import Path

from .errors import UserError


class PathOutsideRoot(UserError):
    """A name that would leave the folder it belongs to."""

    code = "path_outside_root"


def resolve_inside(root: Path, text: str) -> Path:
    """The real path of `root / text`, which need not exist. Raises `PathOutsideRoot` when it is not under `root`."""
    root = Path(os.path.realpath(root))
    try:
        path = Path(os.path.realpath(root / text.replace("\\", "/")))
        path.lstat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        # NUL, lone surrogates, over-long names: nothing of that name can exist here.
        path = root.parent
    if path == root or root in path.parents:
        return path
    raise PathOutsideRoot(
        f"{text[:200]!r} is outside of {root.name}. Use a name inside that folder, without '..', a drive letter, or a "
        "link that leads out of it."
    )
