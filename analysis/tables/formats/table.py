"""A table of the report: a heading, a text, a computation, and how its result is shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from analysis.statistics.study import Study
from analysis.tables.formats.markdown import Markup, escape
from analysis.tables.formats.text import Value, csv_text


@dataclasses.dataclass(frozen=True)
class Csv:
    """A table as a CSV file."""

    name: str
    columns: Sequence[str]
    rows: Callable[[Study, Any], Iterable[Mapping[str, Value]]]


@dataclasses.dataclass(frozen=True)
class Table:
    """A part of the report.

    Attributes:
        heading: its heading; blank for a table that is a file only.
        text: what must be known to read it, in Markdown; ``{baseline}`` is replaced.
        compute: what it shows, and a sentence on everything that it could not.
        markdown: what was computed as Markdown; blank where there is nothing to show.
        csv: the same as a file, if it has one.
        always: whether the file is written even where it has no rows.
    """

    heading: str
    text: str
    compute: Callable[[Study], tuple[Any, list[str]]]
    markdown: Callable[[Study, Any], str] = lambda study, found: ""
    csv: Csv | None = None
    always: bool = True

    def body(self, study: Study) -> str:
        """The table as Markdown, without heading and text; blank where there is nothing to show."""
        return self.markdown(study, study.once(self.compute)[0])

    def csv_rows(self, study: Study) -> list[Mapping[str, Value]]:
        """The rows of the table's file."""
        return [] if self.csv is None else list(self.csv.rows(study, study.once(self.compute)[0]))

    def csv_text(self, study: Study) -> str:
        """The content of the table's file."""
        return "" if self.csv is None else csv_text(self.csv.columns, self.csv_rows(study))


@dataclasses.dataclass(frozen=True)
class Shown:
    """A computed table: Markdown with its heading, its file if it has one, and notes."""

    markdown: str
    csv: tuple[str, str] | None  # name and content
    notes: tuple[str, ...]


def show(table: Table, study: Study) -> Shown:
    """Compute a table."""
    _, notes = study.once(table.compute)
    body = table.body(study)
    text = table.text.replace("{baseline}", escape(study.baseline))
    parts = [f"## {table.heading}\n", text, body] if body else []
    written = table.csv is not None and (table.always or bool(table.csv_rows(study)))
    file = (table.csv.name, table.csv_text(study)) if table.csv is not None and written else None
    return Shown(Markup("\n".join(part for part in parts if part)), file, tuple(notes))
