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
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.process.reading import WRONG, regular
from bench.process.writing import draft, replacing, settle, sync_folder

NO_ROOM = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EROFS: "it is read-only"}


class DamagedRecord(ValueError):
    """A result that was read and found wrong, or lacks a file; the message names the file and says what to do."""


class UnreadableRecord(DamagedRecord):
    """A result that could not be read: permissions, a network file system, too many open files. It may be sound."""


class NoRoom(OSError):
    """The file system that holds the store takes nothing more. No family can be computed until that has changed."""


def damaged(file: Path, why: object) -> DamagedRecord:
    """The complaint about a file of a result; ``why`` is a phrase, or the error of reading it."""
    if isinstance(why, OSError) and why.errno not in WRONG:
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


def write_file(place: Path, content: str | bytes) -> None:
    """Write a file in one step; its folder is made if need be."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with replacing(place) as new:
        new.write_bytes(content.encode() if isinstance(content, str) else content)


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


def sweep(folder: Path, name: str, seconds: float) -> None:
    """Remove the drafts of ``name`` in a folder ("*": of every name) that are older than ``seconds``."""
    now = time.time()
    theirs = (file for file in folder.glob(".tmp??????") if name == "*" and file.is_file())  # drafts of safetensors
    for left in (*folder.glob(f".{name}.*"), *theirs):
        with contextlib.suppress(OSError):
            folder_like = left.is_dir() and not left.is_symlink()
            touched = max(file.lstat().st_mtime for file in (left, *(left.iterdir() if folder_like else ())))
            if now - touched <= seconds:
                continue
            if folder_like:
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink()


def no_room(error: BaseException | None, root: Path | None = None) -> str:
    """Why the file system takes nothing more, if that is what an error, or one that led to it, says; else "".

    With the ``root`` of a store, also that this user may not write there.
    """
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if number is None and (found := re.search(r"\(os error (\d+)\)", str(error))):  # safetensors
            number = int(found[1])
        if number in NO_ROOM:
            name = getattr(error, "filename", None)
            return f"nothing can be written{f' to {name}' if name else ''}: {NO_ROOM[number]}"
        if isinstance(error, PermissionError) and root is not None and isinstance(error.filename, str):
            folder = Path(error.filename).resolve().parent
            if folder.is_relative_to(root.resolve()) and not os.access(folder, os.W_OK | os.X_OK):
                return f"nothing can be written to {error.filename}: {error.strerror}"
        error = error.__cause__ or error.__context__
    return ""
