"""Rows of a CSV, TSV, JSON Lines or parquet file, from its bytes. Byte order marks are skipped."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

_FIELD_LIMIT = 1 << 24  # characters of one CSV field; the standard library's default is 131072


def parse_file(name: str, content: bytes) -> list[dict[str, Any]]:
    """The rows of a file, by the ending of its name.

    Raises:
        ValueError: there is no reader for that ending, or the content does not fit it; the line is named.
    """
    ending = PurePath(name).suffix.lower()
    if ending not in FORMATS:
        raise ValueError(f"{name} has the ending '{ending}': use a {', '.join(FORMATS)} file.")
    return FORMATS[ending](name, content)


def parse_parquet(name: str, content: bytes) -> list[dict[str, Any]]:
    """The rows of a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(content), use_threads=False)
        rows: list[dict[str, Any]] = table.to_pylist()
    except Exception as error:  # pyarrow raises many kinds; all of them mean the same to the user
        raise ValueError(f"{name} cannot be read ({type(error).__name__}: {error}): fetch it again.") from error
    return rows


def parse_csv(name: str, content: bytes, delimiter: str = ",") -> list[dict[str, Any]]:
    """The rows of a CSV file whose first line names the columns."""
    text = _text(name, content)
    limit = csv.field_size_limit(_FIELD_LIMIT)
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header = next(lines, [])
        if len(set(header)) < len(header) or not all(map(str.strip, header)):
            raise ValueError(f"{name}: its first line names the columns, each once; it has {', '.join(header)!r}.")
        rows = []
        for values in lines:
            if not values:
                continue  # a blank line
            if len(values) != len(header):
                raise ValueError(
                    f"{name}, line {lines.line_num}: it has {len(values)} fields, and the first line names "
                    f"{len(header)} columns. Quote fields that hold a {delimiter!r} or a quotation mark."
                )
            rows.append(dict(zip(header, values, strict=True)))
    except csv.Error as error:
        raise ValueError(f"{name}, line {lines.line_num}: it is not CSV ({error}).") from error
    finally:
        csv.field_size_limit(limit)
    return rows


def parse_tsv(name: str, content: bytes) -> list[dict[str, Any]]:
    """The rows of a CSV file whose columns are separated by tabs."""
    return parse_csv(name, content, "\t")


def parse_jsonl(name: str, content: bytes) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file: an object a line."""
    rows = []
    for number, line in enumerate(_text(name, content).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name}, line {number}: it is not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise ValueError(f"{name}, line {number}: it holds a {type(row).__name__}, not an object such as {{...}}.")
        rows.append(row)
    return rows


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8.") from error


FORMATS: dict[str, Callable[[str, bytes], list[dict[str, Any]]]] = {
    ".csv": parse_csv,
    ".tsv": parse_tsv,
    ".jsonl": parse_jsonl,
    ".parquet": parse_parquet,
}
