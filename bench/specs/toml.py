"""TOML as people and programs write it: files with a byte order mark, and text of any depth, read safely."""

from __future__ import annotations

import codecs
import os.path
import tomllib
from pathlib import Path
from typing import Any

DEEPEST = 16  # tables and lists inside each other; our deepest setting is 7
LARGEST = 4 * 2**20  # bytes of a file


def read_toml(file: Path) -> dict[str, Any]:
    """The content of a TOML file in UTF-8, with or without a byte order mark.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is not TOML; the message says where.
    """
    file = expanded(file)
    if not file.exists():
        raise FileNotFoundError(f"There is no file {file}.")
    if not file.is_file():
        raise ValueError(f"{file} cannot be read: it is not a file.")
    try:
        with file.open("rb") as stream:
            content = stream.read(LARGEST + 1)
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror or error}).") from error
    if len(content) > LARGEST:
        raise ValueError(f"{file} has more than {LARGEST} bytes: it is not a grid or settings file.")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{file} cannot be read as TOML: it is in UTF-16. Save it as UTF-8.")
    try:
        return parse_toml(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} cannot be read as TOML: it is not UTF-8 (byte {error.start + 1}). Save it as UTF-8."
        ) from error
    except ValueError as error:
        raise ValueError(f"{file} cannot be read as TOML: {error}.") from error


def parse_toml(text: str) -> dict[str, Any]:
    """The content of TOML text.

    Raises:
        ValueError: it is not TOML, or nested deeper than any setting.
    """
    try:
        content = tomllib.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level: list[Any] = [content]
    for _ in range(DEEPEST):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return content
    raise ValueError(_TOO_DEEP)


_TOO_DEEP = f"tables or lists are nested more than {DEEPEST} deep"


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def expanded(path: Path | str) -> Path:
    """The path with a leading ``~`` replaced by the home folder, where there is one."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  (Path.expanduser raises where there is none)
