"""Files that have arrived, taken into a dataset: each judged as the dataset room judges it, then named in one step.

A file that cannot be taken costs no other. Called on a thread, one call at a time for each dataset.
Covered: names that lead out, that not every system can store or that are one file on some; zips, whose files are read
by `trainer_core/dataset` and never unpacked by name; images that are damaged; captions whose image was refused; a name
that is taken, which is never written over by another image; more images than are allowed; a disk that is full.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ...trainer_core.dataset import decode_image
from ...trainer_core.dataset.archive import ZipContainer, open_zip
from ...trainer_core.dataset.captions import MAX_CAPTION_BYTES, decode_caption
from ...trainer_core.dataset.images import MAX_IMAGE_BYTES
from ...trainer_core.dataset.listing import UNMATCHED, StoredFile, sort_files
from ...trainer_core.dataset.names import clean_name, is_system_file, natural_key, stem_of, suffix_of
from ...trainer_core.dataset.refusal import Refused
from ...trainer_core.errors import SaveFailed, UserError
from ...trainer_core.paths import storable_parts
from ...trainer_core.storage import claim_name, is_disk_full, replace_file
from .library import list_files
from .receive import ZIP_SUFFIX, Part

MAX_UNPACKED_BYTES = 8 * 2**30
"""Of all files that the zips of one call hold."""
MAX_SHOWN_LENGTH = 300


@dataclasses.dataclass
class Taken:
    """What has become of the files of one call."""

    images: list[str] = dataclasses.field(default_factory=list)
    """Names in the dataset."""
    captions: list[str] = dataclasses.field(default_factory=list)
    failures: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """Name as it was sent, and why it was not taken."""


@dataclasses.dataclass(frozen=True)
class _Sent:
    """A file that came by itself, as `sort_files` wants it."""

    name: str
    size: int
    part: Part
    unusable: str = ""


class _NotTaken(Exception):
    """Why one file cannot be taken."""


def take_in(parts: Sequence[Part], dataset: Path, name: str, *, max_images: int, max_files: int) -> Taken:
    """Put what has arrived into the folder `dataset`. Raises `DatasetUnreadable` for what is in there already."""
    intake = _Intake(dataset, name, max_images, max_files)
    loose = []
    for part in parts:
        if part.fault:
            intake.fail(part.name, part.fault)
        elif suffix_of(part.name) == ZIP_SUFFIX:
            intake.take_zip(part)
        else:
            loose.append(part)
    intake.take_loose(loose)
    return intake.taken


class _Intake:
    def __init__(self, dataset: Path, name: str, max_images: int, max_files: int) -> None:
        container = list_files(dataset, name)
        self.taken = Taken()
        self._dataset, self._max_images, self._max_files = dataset, max_images, max_files
        self._unpacked_bytes = 0
        self._there = {_key(file.name): file.name for file in container.files}
        self._image_count = len(sort_files(container.files).images)

    def fail(self, name: str, reason: str) -> None:
        # What was no text when it was sent must not keep the answer from being written.
        shown = name[:MAX_SHOWN_LENGTH].encode(errors="replace").decode()
        self.taken.failures.append((shown, reason.encode(errors="replace").decode()))

    # ---- where they come from --------------------------------------------------------------------------------

    def take_loose(self, parts: Sequence[Part]) -> None:
        """Files that came one by one. Of a name that was sent twice, the second is another call's, so to say."""
        rounds: list[list[_Sent]] = []
        seen: Counter[str] = Counter()
        for part in parts:
            try:
                name = clean_name(part.name)
                if "/" in name or not name:
                    raise _NotTaken("its name has folders in it; send it under its own name alone")
            except (Refused, _NotTaken) as fault:
                self.fail(part.name, str(fault))
                continue
            if seen[name] == len(rounds):
                rounds.append([])
            rounds[seen[name]].append(_Sent(name, part.size, part))
            seen[name] += 1
        for sent in rounds:
            paths = {one.name: one.part.path for one in sent}
            self._take_sorted(sent, lambda name, limit, paths=paths: paths[name])  # type: ignore[misc]

    def take_zip(self, part: Part) -> None:
        try:
            container = open_zip(part.path, "The zip")
            used = [file for file in container.files if not is_system_file(file.name)]
            if len(used) > self._max_files:
                raise _NotTaken(f"it holds {len(used):,} files, more than {self._max_files:,}; split it")
            self._unpacked_bytes += sum(file.size for file in used)
            if self._unpacked_bytes > MAX_UNPACKED_BYTES:
                raise _NotTaken(f"the zips unpack to more than {MAX_UNPACKED_BYTES // 2**30} GiB; send them one by one")
        except (UserError, _NotTaken) as fault:
            self.fail(part.name, str(fault))
            return
        aside = part.path.with_name(part.path.name + "-file")
        self._take_sorted(used, lambda name, limit: _unpacked(container, name, limit, aside))

    def _take_sorted(self, files: Sequence[StoredFile], fetch: Callable[[str, int], Path]) -> None:
        """Images, then captions: one whose image was refused is not given to another image of that name."""
        listing = sort_files(files)
        captions = [file.name for file in listing.captions.values()]
        for skipped in listing.skipped:
            if skipped.reason == UNMATCHED:
                captions.append(skipped.name)  # its image may be here already, or come later
            else:
                self.fail(skipped.name, skipped.reason)
        refused: set[str] = set()
        accepted: set[str] = set()
        for file in listing.images:
            taken = self._take(file.name, MAX_IMAGE_BYTES, self._take_image, fetch)
            (accepted if taken else refused).add(stem_of(file.name))
        for name in sorted(captions, key=natural_key):
            if stem_of(name) in refused - accepted:
                self.fail(name, "its image was not taken")
            else:
                self._take(name, MAX_CAPTION_BYTES, self._take_caption, fetch)

    def _take(
        self,
        name: str,
        max_bytes: int,
        take: Callable[[str, Callable[[], Path]], None],
        fetch: Callable[[str, int], Path],
    ) -> bool:
        """Whether the file is in the dataset now."""
        try:
            take(self._name_there(name), lambda: fetch(name, max_bytes))
        except (UserError, Refused, _NotTaken) as fault:
            self.fail(name, str(fault))
        except OSError as error:
            self.fail(name, f"ComfyUI cannot write it: {error.strerror or 'the disk does not answer'}")
        else:
            return True
        return False

    # ---- one file --------------------------------------------------------------------------------------------

    def _name_there(self, name: str) -> str:
        """What a file is called in the dataset, which has no folders. Raises `NameRejected`."""
        (base,) = storable_parts(name.rpartition("/")[2])
        there = self._there.get(_key(base), base)
        if there != base:
            raise _NotTaken(f"the dataset has {there}, which many systems take for the same name; rename it")
        return base

    def _take_image(self, name: str, fetch: Callable[[], Path]) -> None:
        """Raises `UserError`, `_NotTaken` and OSError."""
        target = self._dataset / name
        if _key(name) in self._there:
            if not _same_bytes(fetch(), target):
                raise _NotTaken("the dataset has another image of this name; send it under another name")
        else:
            self._require_place()
            if self._image_count >= self._max_images:
                raise _NotTaken(f"the dataset has {self._image_count:,} images already, and may have no more")
            path = fetch()
            decode_image(path.read_bytes(), name)
            with path.open("rb+") as file:
                os.fsync(file.fileno())
            claim_name(path, target)
            path.unlink(missing_ok=True)  # a second name of the same bytes: nothing may be written to it any more
            self._there[_key(name)] = name
            self._image_count += 1
        self.taken.images.append(name)

    def _take_caption(self, name: str, fetch: Callable[[], Path]) -> None:
        """Raises `Refused`, `_NotTaken`, `UserError` and OSError."""
        target = self._dataset / name
        if _key(name) not in self._there:
            self._require_place()
        data = fetch().read_bytes()
        decode_caption(data)
        if not (target.is_file() and target.read_bytes() == data):
            try:
                replace_file(target, [data])
            except SaveFailed as error:
                why = "its disk is full" if is_disk_full(error) else "the folder cannot be written to"
                raise _NotTaken(f"ComfyUI cannot write it: {why}") from error
        self._there[_key(name)] = name
        self.taken.captions.append(name)

    def _require_place(self) -> None:
        if len(self._there) >= self._max_files:
            raise _NotTaken(f"the dataset has {len(self._there):,} files already, and may have no more")


def _unpacked(container: ZipContainer, name: str, max_bytes: int, aside: Path) -> Path:
    """One file of a zip, written aside. Raises `DatasetUnreadable` and OSError."""
    if container.entries[name].size > max_bytes:
        raise _NotTaken(f"it has {container.entries[name].size:,} bytes, more than {max_bytes:,}; make it smaller")
    aside.unlink(missing_ok=True)
    with aside.open("xb") as file, contextlib.closing(container.chunks(name)) as chunks:
        file.writelines(chunks)
    return aside


def _same_bytes(new: Path, old: Path) -> bool:
    return (
        old.is_file()
        and new.stat().st_size == old.stat().st_size
        and all(one == other for one, other in zip(_pieces(new), _pieces(old), strict=False))
    )


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(2**20):
            yield piece


def _key(name: str) -> str:
    """Equal for names that are one file on a system that ignores case or normalises."""
    return unicodedata.normalize("NFC", name.casefold())
