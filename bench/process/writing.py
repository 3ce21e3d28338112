"""Files written whole or not at all: under a hidden name (a *draft*), synced, and renamed into their place."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path


def draft(place: Path) -> Path:
    """A hidden name next to ``place`` that no other process uses."""
    return place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}")


@contextlib.contextmanager
def replacing(place: Path) -> Iterator[Path]:
    """A draft to write; when the block ends well, it is synced and takes the place of whatever ``place`` was."""
    new = draft(place)
    try:
        yield new
        settle(new)
        new.replace(place)
    finally:
        new.unlink(missing_ok=True)
    sync_folder(place.parent)


def settle(place: Path) -> None:
    """Sync what was just written, a folder with all that it holds, and open it to others as far as the umask does.

    Libraries may have chosen other modes. A folder keeps the bit by which what is made in it has its group.
    """
    if place.is_dir():
        for inner in place.iterdir():
            settle(inner)
        place.chmod(place.stat().st_mode & stat.S_ISGID | 0o777 & ~_umask())
        sync_folder(place)
        return
    place.chmod(0o666 & ~_umask())
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries. Some file systems refuse that (EINVAL, ENOTSUP, EIO), and the files are there."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    """The process's umask. Linux tells it; elsewhere it has to be set to be read."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^Umask:\s*([0-7]+)$", Path("/proc/self/status").read_text(), re.MULTILINE):
            return int(found[1], 8)
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
