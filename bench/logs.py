"""What was said about a family: the traces of its failures and the logs of the jobs that tried it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from bench.submission import Submission, read_submissions

_PREFIX = re.compile(r"[0-9a-f]{4,64}")


def logs(runs: Path, prefix: str, lines: int = 200) -> str:
    """Everything about the families, fits and evaluations whose keys start with ``prefix``, oldest first.

    Raises:
        LookupError: it is no key, or nothing is known of it.
    """
    if not _PREFIX.fullmatch(prefix):
        raise LookupError(f"'{prefix}' is not a key: give at least four hex digits, as `bench status` shows them.")
    parts, keys = [], set[str]()
    for submission in read_submissions(runs):
        for item, found in _items(submission, prefix):
            keys |= found
            for file in _files(submission, item):
                tail = file.read_text(errors="replace").splitlines()[-lines:]
                parts.append("\n".join([f"== {file}", *tail]))
    for file in sorted((runs / "failures").glob("*.json"), key=lambda file: file.stem.rpartition("-")[2]):
        name = file.stem.rpartition("-")[0]
        if name.startswith(prefix) or name in keys:
            content = json.loads(file.read_text())
            where = content.get("attempt", {}).get("node", "")
            parts.append(f"== {file}" + (f" (on {where})" if where else "") + f"\n{content['trace'].rstrip()}")
    if not parts:
        raise LookupError(f"{runs} has neither a failure nor a log of '{prefix}'.")
    return "\n\n".join(parts)


def _items(submission: Submission, prefix: str) -> Iterator[tuple[int, set[str]]]:
    """Number and keys of the families of a submission that have a key with that prefix."""
    with submission.families.open() as stream:
        next(stream, None)
        for item, line in enumerate(stream):
            if f'"{prefix}' in line:
                data = json.loads(line)
                keys = {data["key"], *data["keys"]}
                if any(name.startswith(prefix) for name in keys):
                    yield item, keys


def _files(submission: Submission, item: int) -> list[Path]:
    """The logs of a family by its number: ``<first of its array>-<index>.log``."""
    found = [(file, re.fullmatch(r"(\d+)-(\d+)", file.stem)) for file in sorted(submission.logs.glob("*.log"))]
    return [file for file, name in found if name and int(name[1]) + int(name[2]) == item]
