"""All that was said about a family: the traces of its failures and the logs of the jobs that tried it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from bench.plan.runs import fits_of
from bench.process.reading import regular
from bench.specs import RunSpec, build
from bench.store.store import PREFIX, Store


def logs(store: Store, prefix: str, lines: int = 200) -> str:
    """Everything about the families, fits and evaluations whose keys start with ``prefix``, oldest first.

    Raises:
        LookupError: it is not a key, or nothing is known of it.
    """
    if not PREFIX.fullmatch(prefix):
        raise LookupError(f"'{prefix}' is not a key: give at least four hex digits, as `bench status` shows them.")
    parts, keys = [], set[str]()
    # not read_submissions: the logs are worth reading where a submission.json is not
    for folder in sorted(store.submissions.glob("*-*")):
        for item, found in _items(folder / "families.jsonl", prefix):
            keys |= found
            parts += [_log(file, lines) for file in _files(folder / "logs", item)]
    for file in sorted((store.root / "failures").glob("*.json"), key=lambda file: file.stem.rpartition("-")[2]):
        if any(name.startswith(prefix) or name in keys for name in _failed(file)):
            parts.append(_failure(file))
    if not parts:
        raise LookupError(f"{store.root} has neither a failure nor a log of '{prefix}'.")
    return "\n\n".join(parts)


def _log(file: Path, lines: int) -> str:
    """The end of a log."""
    try:
        tail = file.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        return _unreadable(file)
    return "\n".join([f"== {file}", *tail])


def _failed(file: Path) -> set[str]:
    """The keys of an evaluation that failed and of the fits that it needs; the first of these is its family's."""
    names = {file.stem.rpartition("-")[0]}
    try:
        run = build(RunSpec, json.loads(regular(file).read_bytes())["spec"])
        return names | fits_of([run]).keys()
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return names


def _failure(file: Path) -> str:
    """The trace of a failure, and where it happened."""
    try:
        content = json.loads(regular(file).read_bytes())
        trace = content["trace"].rstrip()
        where = (content.get("attempt") or {}).get("node")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _unreadable(file)
    return f"== {file}" + (f" (on {where})" if where else "") + f"\n{trace}"


def _unreadable(file: Path) -> str:
    """The text in place of a damaged file, which must not hide the others."""
    return f"== {file} cannot be read"


def _items(file: Path, prefix: str) -> Iterator[tuple[int, set[str]]]:
    """Number and keys of the families of a submission that have a key with that prefix; damaged lines have none."""
    try:
        with file.open(errors="replace") as stream:
            next(stream, None)
            for item, line in enumerate(stream):
                keys = _keys(line) if f'"{prefix}' in line else set()
                if any(name.startswith(prefix) for name in keys):
                    yield item, keys
    except OSError:
        return


def _keys(line: str) -> set[str]:
    """The keys of a family and of its evaluations."""
    try:
        data = json.loads(line)
        return {str(name) for name in (data["key"], *data["keys"])}
    except (ValueError, KeyError, TypeError, RecursionError):
        return set()


def _files(folder: Path, item: int) -> list[Path]:
    """The logs of a family by its number: ``<first of its array>-<index>.log``."""
    found = [(file, re.fullmatch(r"(\d+)-(\d+)", file.stem)) for file in sorted(folder.glob("*.log"))]
    return [file for file, name in found if name and int(name[1]) + int(name[2]) == item]
