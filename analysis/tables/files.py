"""Text files, written whole or not at all."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path


def write_text(file: Path, text: str) -> Path:
    """Replace a file in one step: a reader sees the old text or the new. UTF-8, line ends as given."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        draft.write_bytes(text.encode())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    return file


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    r"""Rows as CSV with ``\n`` line ends."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()


def number(value: float | None) -> str:
    """Six decimals, never a negative zero; blank for None."""
    return "" if value is None else f"{round(value, 6) + 0.0:.6f}"
