"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

GAP = "-"  # a run that is missing


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    align = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in (header, align, *rows)) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
