"""Markdown: tables, and text from records that must not be read as markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analysis.records.names import printable

GAP = "-"  # a run that is missing
WIDEST = 40  # a column wider than this is not padded to its widest cell
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", **{c: f"\\{c}" for c in "\\`*[|"}}


class Markup(str):
    """Text that is Markdown on purpose; tables escape every other."""

    __slots__ = ()


def escape(text: str) -> str:
    """Text that Markdown, and the HTML made of it, shows as it is, in one line."""
    if isinstance(text, Markup):
        return text
    return "".join(_ESCAPES.get(c, c) for c in printable(text.replace("\n", " ")))


def bold(text: str) -> Markup:
    """Text in bold."""
    return Markup(f"**{escape(text)}**")


def heading(level: int, text: str) -> str:
    """A heading, with the blank line after it."""
    return f"{'#' * level} {escape(text)}\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, legible as plain text too: the first column to the left, the others to the right."""
    lines = [[escape(cell) for cell in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rules = [f":{'-' * (min(widths[0], WIDEST) - 1)}", *(f"{'-' * (min(width, WIDEST) - 1)}:" for width in widths[1:])]
    return "".join(f"| {' | '.join(_padded(line, widths))} |\n" for line in (lines[0], rules, *lines[1:]))


def _padded(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Cells at the width of their column; a column of long texts is left ragged."""
    wide = [min(width, WIDEST) for width in widths]
    return [line[0].ljust(wide[0]), *(cell.rjust(width) for cell, width in zip(line[1:], wide[1:], strict=True))]
