"""What lies below a folder, to prove that something did not change it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    """Every file, folder and link below `root`, links not followed: kind, permissions, time and contents.

    Folders are without their time, which changes when a file is made and removed again.
    """
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder) / name
            found[path.relative_to(root).as_posix()] = _told(path)
    return found


def _told(path: Path) -> tuple[object, ...]:
    status = path.lstat()
    if path.is_symlink():
        return ("link", os.readlink(path), status.st_mtime_ns)
    if path.is_dir():
        return ("folder", status.st_mode)
    contents = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return ("file", status.st_mode, status.st_mtime_ns, contents)
