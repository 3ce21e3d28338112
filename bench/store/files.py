"""Files of the store: written whole or not at all, hashed, and read with the right complaint.

Every file is written under a hidden name (a *draft*), synced and renamed into its place. A killed process leaves
drafts behind; :func:`sweep` removes those that are too old to belong to a living one. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.process.reading import regular

# What says "the file is not what it should be". Any other error says that it could not be read, now or by this user.
DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
NO_ROOM = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EROFS: "it is read-only"}


class DamagedRecord(ValueError):
    """A result that was read and found wrong, or lacks a file; the message names the file and says what to do."""


class UnreadableRecord(DamagedRecord):
    """A result that could not be read: permissions, a network file system, too many open files. It may be sound."""


class NoRoom(OSError):
    """The file system that holds the store takes nothing more. No family can be computed until that has changed."""


def damaged(file: Path, why: object) -> DamagedRecord:
    """The complaint about a file of a result; ``why`` is a phrase, or the error of reading it."""
    if isinstance(why, OSError) and why.errno not in DAMAGE:
        return UnreadableRecord(f"{file} cannot be read ({why.strerror or why}). Fix that and run the command again.")
    text = why.strerror if isinstance(why, OSError) else why
    return DamagedRecord(f"{file} is damaged ({text}): delete the folder {file.parent} and run the grid again.")


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn errors of reading ``file`` into :class:`DamagedRecord` or :class:`UnreadableRecord`."""
    try:
        yield
    except DamagedRecord:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(file, error if isinstance(error, OSError) else f"{type(error).__name__}: {error}") from error


def read_json(file: Path) -> Any:
    """The content of a JSON file of a result.

    Raises:
        DamagedRecord: it is missing, cannot be read, or is not JSON.
    """
    with reading(file):
        return json.loads(regular(file).read_bytes())


def sha256(file: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with regular(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def draft(place: Path) -> Path:
    """A hidden name next to ``place`` that no other process uses."""
    return place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}")


def write_file(place: Path, content: str | bytes) -> None:
    """Write a file in one step; its folder is made if need be."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with replacing(place) as new:
        new.write_bytes(content.encode() if isinstance(content, str) else content)


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


def publish_folder(place: Path, write: Callable[[Path], None]) -> None:
    """Make a folder in one step: ``write(draft)`` fills it.

    Raises:
        OSError: the place is taken by a folder that is not empty, or writing failed. Nothing of it stays.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    new = draft(place)
    try:
        new.mkdir()
        write(new)
        settle(new)
        new.rename(place)  # refused when the place is taken: result folders are never empty
    finally:
        shutil.rmtree(new, ignore_errors=True)
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


def sweep(folder: Path, name: str, seconds: float) -> None:
    """Remove the drafts of ``name`` in a folder ("*": of every name) that are older than ``seconds``."""
    now = time.time()
    for left in folder.glob(f".{name}.*"):
        with contextlib.suppress(OSError):
            folder_like = left.is_dir() and not left.is_symlink()
            touched = max(file.lstat().st_mtime for file in (left, *(left.iterdir() if folder_like else ())))
            if now - touched <= seconds:
                continue
            if folder_like:
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink()


def no_room(error: BaseException | None) -> str:
    """Why the file system takes nothing more, if that is what an error, or one that led to it, says; else ""."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if number is None and (found := re.search(r"\(os error (\d+)\)", str(error))):  # safetensors
            number = int(found[1])
        if number in NO_ROOM:
            name = getattr(error, "filename", None)
            return f"nothing can be written{f' to {name}' if name else ''}: {NO_ROOM[number]}"
        error = error.__cause__ or error.__context__
    return ""


def _umask() -> int:
    """The process's umask. Linux tells it; elsewhere it has to be set to be read."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^Umask:\s*([0-7]+)$", Path("/proc/self/status").read_text(), re.MULTILINE):
            return int(found[1], 8)
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
