"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

GAP = "-"  # a run that is missing
WIDEST = 40  # a column wider than this is not padded to its widest cell


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, legible as plain text too: the first column to the left, the others to the right."""
    lines = [[_cell(cell) for cell in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rules = [f":{'-' * (min(widths[0], WIDEST) - 1)}", *(f"{'-' * (min(width, WIDEST) - 1)}:" for width in widths[1:])]
    return "".join(f"| {' | '.join(_padded(line, widths))} |\n" for line in (lines[0], rules, *lines[1:]))


def _padded(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Cells at the width of their column; a column of long texts is left ragged."""
    wide = [min(width, WIDEST) for width in widths]
    return [line[0].ljust(wide[0]), *(cell.rjust(width) for cell, width in zip(line[1:], wide[1:], strict=True))]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
