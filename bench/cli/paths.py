"""Paths that cannot be used are refused before any work."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from bench.process.writing import replacing


def check_folder(path: Path, option: str) -> None:
    """``path`` is a folder, or could be made: no file is in the way.

    Raises:
        NotADirectoryError: a file is; the message names it.
    """
    there = _existing(path)
    if not there.is_dir():
        what = "it is not a folder" if there == path else f"{there} is not a folder"
        raise NotADirectoryError(f"{option} {path}: {what}. Choose another place.")


def check_output_folder(path: Path, option: str) -> None:
    """Files can be written to ``path``, which need not exist.

    Raises:
        NotADirectoryError, PermissionError: they cannot.
    """
    check_folder(path, option)
    _check_writable(_existing(path), path, option)


def check_output_file(path: Path, option: str) -> None:
    """``path`` can be written as a file.

    Raises:
        IsADirectoryError, FileNotFoundError, PermissionError: it cannot.
    """
    check_file(path, option)
    _check_writable(path if path.exists() else path.parent, path, option)


def check_file(path: Path, option: str) -> None:
    """``path`` is that of a file, which need not exist, in a folder that does.

    Raises:
        IsADirectoryError, FileNotFoundError: it is not.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{option} {path} is a folder: name a file.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{option} {path}: there is no folder {path.parent}. Create it, or choose another.")


def write_output(path: Path, text: str) -> None:
    """Write a file that :func:`check_output_file` has accepted; what it held stays if the disk is full.

    It keeps its mode. A pipe, a terminal and a file in a folder that may not be written to are written in place.
    """
    place = path.resolve()
    there = place.exists()
    if there and not (place.is_file() and os.access(place.parent, os.W_OK | os.X_OK)):
        path.write_text(text)
        return
    mode = stat.S_IMODE(place.stat().st_mode) if there else None
    with replacing(place) as new:
        new.write_text(text)
    if mode is not None:
        place.chmod(mode)


def _check_writable(there: Path, path: Path, option: str) -> None:
    if not os.access(there, os.W_OK):
        raise PermissionError(f"{option} {path}: {there} cannot be written to by this user. Choose another place.")


def _existing(path: Path) -> Path:
    """``path``, or the nearest of the folders above it that exists."""
    return next((place for place in (path, *path.parents) if os.path.lexists(place)), Path())
