"""Text files, written whole or not at all, and CSV that spreadsheets read as it is meant."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from analysis.records.names import lost_as_number, printable

Value = str | float | int | None

_FORMULA = re.compile(r"[=+\-@]")


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


def check_folder(out: Path) -> None:
    """Refuse an output folder that cannot be one.

    Raises:
        ValueError: it, or a folder that it should lie in, is a file, or may not be written to.
    """
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"{there} is a file: give --out the name of a folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{there} may not be written to: give --out another folder.")


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Value]]) -> str:
    r"""Rows as CSV with ``\n`` line ends: numbers with six decimals, blanks for None.

    Text that a spreadsheet would run as a formula or show as another number (12e45678, a key) begins with ``'``.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    return stream.getvalue()


def cell(value: Value) -> str:
    """A value as the text of a CSV cell."""
    if isinstance(value, str):
        text = printable(value)  # a control character would end the cell, or move a terminal
        return f"'{text}" if lost_as_number(text) or _FORMULA.match(text) else text
    return str(value) if isinstance(value, int) else number(value)


def number(value: float | None) -> str:
    """Six decimals, never a negative zero; blank for None."""
    return "" if value is None else f"{round(value, 6) + 0.0:.6f}"


def joined(values: Iterable[object]) -> str:
    """Values with blanks between them."""
    return " ".join(map(str, values))
