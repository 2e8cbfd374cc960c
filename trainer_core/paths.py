"""Joining a root with a user's text, and judging names that are to be created; the one way both are done here.

Covered: absolute paths, `..`, drive letters and network shares (refused by their spelling alone: Windows would
already log in to a share that is only looked at), backslashes, NUL, and symbolic links that lead out of the root. For
names that are to be created: whatever some system cannot store, or stores as something else.
Not covered: a link that is swapped between this check and the use of the path; two names that differ in case only.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from .errors import UserError

MAX_PART_BYTES = 200
"""Of one folder or file name to be created; systems store 255, and numbers and endings are added to it."""
MAX_PARTS = 16
"""Of a path to be created. Windows stops at 260 characters for the whole path."""

_UNSTORABLE = re.compile(r'[<>:"|?*\x00-\x1f\x7f-\x9f\ud800-\udfff]')
_INVISIBLE = re.compile("[\u200e\u200f\u061c\u2028-\u202e\u2066-\u2069\ufeff]")
"""Line breaks and marks that turn the reading direction: a name with them reads as another one."""
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\.|$)", re.IGNORECASE)


class PathOutsideRoot(UserError):
    """A name that would leave the folder it belongs to."""

    code = "path_outside_root"


class NameRejected(UserError):
    """A name that not every system could store as it is."""

    code = "name_rejected"


def resolve_inside(root: Path, text: str) -> Path:
    """The real path of `root / text`, which need not exist. Raises `PathOutsideRoot` when it is not under `root`."""
    root = Path(os.path.realpath(root))
    path = None if _is_absolute(text) else _real_path(root / text.replace("\\", "/"))
    if path is not None and (path == root or root in path.parents):
        return path
    raise PathOutsideRoot(
        f"{shown(text)} is outside of {root.name}. Use a name inside that folder, without '..', a drive letter, or a "
        "link that leads out of it."
    )


def storable_parts(text: str) -> tuple[str, ...]:
    """The folders and the file name in `text`, each of which every system stores as it is written.

    `/` and the backslash separate; empty and `.` parts are dropped. Raises `NameRejected`.
    """
    if _is_absolute(text):
        raise NameRejected(f"{shown(text)} is an absolute path. Use a name without a drive or a / at its start.")
    parts = tuple(part for part in text.replace("\\", "/").split("/") if part not in ("", "."))
    if len(parts) > MAX_PARTS:
        raise NameRejected(f"{shown(text)} has {len(parts)} folders inside each other. Use at most {MAX_PARTS}.")
    for part in parts:
        fault = _fault(part)
        if fault:
            raise NameRejected(
                f"{shown(part)} cannot be the name of a file or folder: it {fault}. "
                "Use letters, digits, spaces, hyphens and underscores."
            )
    return parts


def shown(text: str) -> str:
    """A user's text for a message: in quotes, cut, and without characters that would upset the screen."""
    return repr(text[:200]).replace("\\\\", "\\")


def _fault(part: str) -> str:
    """Why a name must not be created, or ""."""
    if found := _UNSTORABLE.search(part):
        return f"contains {found[0]!r}, which not every system allows"
    if _INVISIBLE.search(part):
        return "contains invisible characters that change how it reads"
    if part.startswith((".", " ")):
        return "starts with a dot or a space"
    if part.endswith((".", " ")):
        return "ends with a dot or a space, which Windows drops"
    if _DEVICE.match(part):
        return "is the name of a device on Windows"
    if len(part.encode()) > MAX_PART_BYTES:
        return f"is {len(part.encode())} bytes long, more than {MAX_PART_BYTES}"
    return ""


def _is_absolute(text: str) -> bool:
    windows = PureWindowsPath(text)
    return PurePosixPath(text).is_absolute() or bool(windows.drive or windows.root)


def _real_path(path: Path) -> Path | None:
    """With all links followed, or None where nothing of that name can exist: NUL, lone surrogates, over-long names."""
    try:
        real = Path(os.path.realpath(path))
    except (OSError, ValueError):
        return None
    try:
        real.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return real
    except OSError:
        return None
    return real
