"""A task that a short TOML file describes: its columns, answers, prompt and files. No Python is needed.

::

    name = "tickets"                       # default: the name of this file
    prompt = "Which team answers this? {text} Choices: {options} Answer:"
    label = "team"                         # the column that holds the right answer
    labels = ["billing", "login", "other"] # its values, in the order of the answers; default: the answers
    options = ["Billing.", "Login.", "Other."]
    answers = ["A", "B", "C"]              # the words the model chooses from; default: letters, one per option

    [splits]                               # .csv, .tsv, .jsonl or .parquet, relative to this file
    train = "train.csv"
    validation = "validation.csv"

``prompt`` names columns in braces; ``{options}`` lists the options as ``A. first B. second ...``. Options are fixed
texts (``options``), columns of a row (``option_columns = ["a", "b"]``) or one column that holds a list
(``options_column``). The data revision hashes every prompt, label and answer, so an edited file is other data.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os.path
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from bench.data.formats import FORMATS
from bench.data.rows import Content
from bench.data.splits import DataSource, load_split
from bench.errors import near_miss
from bench.registry import load_plugin
from bench.specs import canonical
from bench.specs.toml import read_toml
from bench.task import LETTERS, TASKS, Example, MalformedRow, Row, Task, as_text, lettered

SPLITS = ("train", "validation", "test")
OPTIONS = "options"
TEXTS = ("title", "prompt", "label", "options_column", "licence", "citation")
LISTS = ("answers", "labels", "options", "option_columns")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """The content of a task file, checked. ``options``, ``option_columns``, ``options_column``: at most one of them."""

    name: str
    title: str
    prompt: str
    label: str
    answers: tuple[str, ...]
    labels: tuple[str, ...]
    splits: Mapping[str, Path]
    options: tuple[str, ...] = ()
    option_columns: tuple[str, ...] = ()
    options_column: str = ""
    licence: str = "not stated"
    citation: str = ""
    version: int = 1

    @property
    def has_options(self) -> bool:
        """Whether ``{options}`` in the prompt lists options, rather than naming a column."""
        return bool(self.options or self.option_columns or self.options_column)

    @property
    def fields(self) -> list[tuple[str, str | None]]:
        """The prompt as (text, column that follows it or None)."""
        return [(text, column) for text, column, _, _ in string.Formatter().parse(self.prompt)]

    @property
    def columns(self) -> frozenset[str]:
        """The columns that a question is made of."""
        shown = {column for _, column in self.fields if column and not (column == OPTIONS and self.has_options)}
        return frozenset({*shown, *self.option_columns, *filter(None, [self.options_column])})


class FileTask(Task):
    """Base of the classes made from task files."""

    description: ClassVar[Description]
    source = "local files"

    def example(self, row: Row) -> Example:
        says = self.description
        return Example(self._prompt(row), row.position(says.label, says.labels))

    def question(self, row: Row) -> Example:
        return Example(self._prompt(row), 0)

    def _prompt(self, row: Row) -> str:
        fields = self.description.fields
        return "".join(text + (self._value(row, column) if column else "") for text, column in fields)

    def _value(self, row: Row, column: str) -> str:
        if column != OPTIONS or not self.description.has_options:
            return _readable(row[column], column)
        listed = lettered(self.answers, self._options(row))
        return " ".join(f"{letter}. {option}" for letter, option in listed)

    def _options(self, row: Row) -> list[str]:
        says = self.description
        if says.options_column:
            values = row[says.options_column]
            if not isinstance(values, list | tuple):
                raise MalformedRow(f"field '{says.options_column}' is {values!r}: it should be a list")
            return [_readable(value, f"{says.options_column}[{i}]") for i, value in enumerate(values)]
        return [_readable(row[column], column) for column in says.option_columns] or list(says.options)


def _readable(value: Any, field: str) -> str:
    """A value as the prompt shows it: text, or a number."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        return str(value)
    return as_text(value, field)


def is_task_file(name: str) -> bool:
    """Whether a name of a task or plug-in is that of a task file."""
    return name.endswith(".toml")


def load_extension(name: str, folder: Path = Path()) -> str:
    """Load what ``--plugin`` names, a module or a task file; returns the name by which a worker finds it anywhere.

    Args:
        folder: the folder where a relative path of a task file starts.
    """
    if not is_task_file(name):
        load_plugin(name)
        return name
    file = _resolved(name, folder)
    register_task_file(file)
    return str(file)


def named_task(name: str, folder: Path = Path()) -> tuple[str, tuple[str, ...]]:
    """(the name of a task, what a worker has to load for it), where a task may be named by its file."""
    if not is_task_file(name):
        return name, ()
    file = _resolved(name, folder)
    return register_task_file(file), (str(file),)


def _resolved(name: str, folder: Path) -> Path:
    return Path(folder, os.path.expanduser(name)).resolve()  # noqa: PTH111  (it never raises)


def register_task_file(file: Path) -> str:
    """Register the task that a file describes, after all its rows were read; returns its name.

    Raises:
        FileNotFoundError, LookupError, ValueError: the file, a key, a column or a row is missing or wrong; it is named.
    """
    says = read_description(file)
    revision = "file:" + hashlib.sha256(canonical(list(says.answers)).encode()).hexdigest()[:8]
    attributes = {
        "description": says,
        "name": says.name,
        "title": says.title,
        "revision": revision,
        "licence": says.licence,
        "citation": says.citation,
        "answers": says.answers,
        "version": says.version,
        "files": says.splits,
        "rows": {split: _count(rows, says) for split, rows in says.splits.items()},
        "__qualname__": str(file),
    }
    cls = type(says.name, (FileTask,), attributes)
    for split in says.splits:
        load_split(cls(), split, DataSource())
    TASKS.add(cls)
    return says.name


def _count(file: Path, says: Description) -> int:
    """The number of rows of a file, the first of which has all columns."""
    content = Content.of_file(file)
    rows = content.parse()
    if not rows:
        raise ValueError(f"{file} has no rows.")
    for column in sorted(says.columns | {says.label}):
        if column not in rows[0]:
            raise LookupError(f"{file} has no column '{column}'.{near_miss(column, rows[0])}")
    return len(rows)


def read_description(file: Path) -> Description:
    """The checked content of a task file.

    Raises:
        FileNotFoundError, LookupError, ValueError: what is wrong with it; the key is named.
    """
    content = _read_toml(file)
    known = [field.name for field in dataclasses.fields(Description)]
    for key in content:
        if key not in known:
            raise LookupError(f"{file.name} has no key '{key}'.{near_miss(key, known)}")
    name = _text(content.get("name", file.stem.lower().replace("-", "_")), f"{file.name}: name")
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name):
        raise ValueError(
            f"{file.name}: the name {name!r} is not lower-case letters, digits and underscores: set `name`."
        )
    for key in ("prompt", "label"):
        if key not in content:
            raise ValueError(f"{file.name} has no `{key}`: add it.")
    version = content.get("version", 1)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"{file.name}: version is {version!r}: write a whole number of at least 1.")
    texts = {key: _text(content[key], f"{file.name}: {key}") for key in TEXTS if key in content}
    lists = {key: _texts(content[key], f"{file.name}: {key}") for key in LISTS if key in content}
    _complete(lists, "options_column" in texts, file.name)
    found: dict[str, Any] = {"title": name, **texts, **lists}
    says = Description(**found, name=name, version=version, splits=_splits(content.get("splits"), file))
    _check_prompt(says, file.name)
    return says


def _complete(lists: dict[str, tuple[str, ...]], listed: bool, where: str) -> None:
    """Fill in the answers and the values of the label; check that all lists are of one length."""
    given = [key for key in ("options", "option_columns") if lists.get(key)]
    if len(given) + listed > 1:
        raise ValueError(f"{where} states its options twice: keep one of options, option_columns, options_column.")
    count = max((len(lists[key]) for key in (*given, "labels") if key in lists), default=0)
    answers = lists.setdefault("answers", LETTERS[:count])
    if len(answers) < 2:
        raise ValueError(f'{where}: it has fewer than two answers: set `answers`, such as ["A", "B"].')
    lists.setdefault("labels", answers)
    for key in ("labels", *given):
        if len(lists[key]) != len(answers):
            raise ValueError(
                f"{where}: {key} has {len(lists[key])} entries, and there are {len(answers)} answers "
                f"({', '.join(answers)}): write one for each."
            )


def _check_prompt(says: Description, where: str) -> None:
    try:
        parts = [part for part in string.Formatter().parse(says.prompt) if part[1] is not None]
    except ValueError as error:
        raise ValueError(f"{where}: prompt has unmatched braces ({error}): write {{{{ for a brace.") from None
    if any(not column or form or conversion for _, column, form, conversion in parts):
        raise ValueError(f"{where}: prompt names columns as {{column}}, with nothing else in the braces.")
    if not parts:
        raise ValueError(f"{where}: prompt names no column, so all prompts would be alike: write {{column}} in it.")
    if says.has_options and OPTIONS not in [column for _, column, _, _ in parts]:
        raise ValueError(f"{where}: prompt does not show the options: write {{options}} where they belong.")


def _splits(table: Any, file: Path) -> dict[str, Path]:
    if not isinstance(table, dict) or not table:
        raise ValueError(f'{file.name} has no table [splits]: add one, such as train = "train.csv".')
    for split, name in table.items():
        if split not in SPLITS:
            raise LookupError(f"{file.name}: [splits] has no split '{split}'.{near_miss(split, SPLITS)}")
        if not isinstance(name, str) or Path(name).suffix.lower() not in FORMATS:
            raise ValueError(f"{file.name}: splits.{split} is {name!r}: name a {', '.join(FORMATS)} file.")
    if not table.keys() & {"validation", "test"}:
        raise ValueError(f"{file.name}: [splits] has nothing to report: add validation or test.")
    found = {split: _resolved(name, file.parent) for split, name in table.items()}
    for split, place in found.items():
        if split != "train" and place == found.get("train"):
            raise ValueError(
                f"{file.name}: splits.train and splits.{split} are one file: nothing unseen would be scored."
            )
    return found


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} is {value!r}: write a text.")
    return value


def _texts(values: Any, where: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not values or any(isinstance(value, dict | list) for value in values):
        raise ValueError(f"{where} is {values!r}: write a list of texts.")
    texts = tuple(map(str, values))
    if len(set(texts)) < len(texts) or not all(map(str.strip, texts)):
        raise ValueError(f"{where} is {values!r}: its entries must differ and not be empty.")
    return texts


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return read_toml(file)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no task file {file}.") from None
