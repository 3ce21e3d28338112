"""From a task's rows to checked examples: loading, counting, fingerprinting, holding out."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import operator
import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.data.rows import Content, Origin, find_rows
from bench.specs import canonical, digest
from bench.task import Example, MalformedRow, Row, Task, as_text

CACHED_SPLITS = 64  # kept in memory, of all tasks


@dataclasses.dataclass(frozen=True)
class DataSource:
    """The source of rows: the hub, or a local mirror of its layout; and whether a partial split is accepted."""

    data_dir: Path | None = None
    allow_partial: bool = False

    def __post_init__(self) -> None:
        if self.data_dir is not None:
            object.__setattr__(self, "data_dir", Path(os.path.expanduser(self.data_dir)))  # noqa: PTH111 (never raises)


@dataclasses.dataclass(frozen=True)
class Split:
    """The examples of one split of one task, and what became of its rows."""

    examples: tuple[Example, ...]
    rows: int
    official: int

    @property
    def facts(self) -> dict[str, Any]:
        """Counts for the record: official rows, rows found, examples kept and dropped."""
        return {
            "official": self.official,
            "rows": self.rows,
            "kept": len(self.examples),
            "dropped": self.rows - len(self.examples),
            "partial": self.rows < self.official,
            "fingerprint": self.fingerprint,
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of every prompt and label, in order: equal data gives it wherever it was read from."""
        content = [[e.id, e.prompt, e.label] for e in self.examples]
        return hashlib.sha256(canonical(content).encode()).hexdigest()[:16]


def load_split(task: Task, split: str, source: DataSource) -> Split:
    """The examples of a split, every row checked.

    A local file is read at every call, and checked again where its content has changed; the rows of the hub and those
    that a task makes itself are read once in a process.

    Raises:
        LookupError: the task has no such labelled split.
        FileNotFoundError: the rows are not where ``source`` says.
        ValueError: wrong number of rows, a malformed row (file, row number and field are named), or rows whose
            fingerprint is not the one that the task pins for a commit of the hub, or for its own code.
    """
    if split not in task.rows:
        raise LookupError(
            f"Task '{task.name}' has no labelled split '{split}': it has {', '.join(task.rows)}. "
            "Choose another split or protocol."
        )
    content = find_rows(task, split, source.data_dir)
    known = (type(task), split, content.origin, content.digest)
    loaded = _loaded.get(known)
    if loaded is None:
        loaded = _check_rows(task, split, content)
        if len(_loaded) >= CACHED_SPLITS:
            del _loaded[next(iter(_loaded))]
        _loaded[known] = loaded
    if loaded.rows > loaded.official or (loaded.rows < loaded.official and not source.allow_partial):
        raise ValueError(
            f"{content.name} has {loaded.rows} rows; the official {split} split of '{task.name}' has "
            f"{loaded.official}. "
            + (
                "Fetch the whole split, or accept it with --allow-partial-data (the record will say so)."
                if loaded.rows < loaded.official
                else "It is not the dataset that the task pins: fetch it again."
            )
        )
    if not loaded.examples:
        raise ValueError(f"{content.name}: no row of {loaded.rows} could be used. Is it the right dataset?")
    if content.origin in (Origin.HUB, Origin.GENERATED) and loaded.rows == loaded.official:
        _check_pinned(task, split, content, loaded)
    return loaded


def _check_pinned(task: Task, split: str, content: Content, loaded: Split) -> None:
    """Refuse rows that a revision vouches for and that are others."""
    pinned = task.fingerprints.get(split, loaded.fingerprint)
    if loaded.fingerprint == pinned:
        return
    fix = (
        "Delete the copy in the cache of `datasets` and fetch it again."
        if content.origin is Origin.HUB
        else "Restore the code that makes them, or raise the task's `revision` and pin the new fingerprint."
    )
    raise ValueError(
        f"{content.name}: these are not the {split} rows that {type(task).__qualname__} pins for revision "
        f"{task.revision[:12]} (their fingerprint is {loaded.fingerprint}, not {pinned}). {fix} A task with other "
        "prompts or rows than its parent's states its own `fingerprints`."
    )


_loaded: dict[tuple[type[Task], str, Origin, str], Split] = {}  # by what was read, oldest first


def _check_rows(task: Task, split: str, content: Content) -> Split:
    rows = content.parse()
    examples = []
    for number, row in enumerate(rows):
        try:
            example = task.example(Row(row))
            if example is not None:
                examples.append(checked(example, f"{split}/{number}", len(task.answers)))
        except MalformedRow as error:
            raise ValueError(
                f"{content.name}, row {number}: {error}. Correct that row or fetch the data again."
            ) from error
        except Exception as error:  # of any kind: example() is the task author's, and the row is what they look for
            raise ValueError(
                f"{content.name}, row {number}: {type(error).__name__}: {error}, in {type(task).__qualname__}.example: "
                "correct that method, or the row."
            ) from error
    return Split(tuple(examples), len(rows), task.rows[split])


def checked(example: Any, name: str, answers: int) -> Example:
    """The example that a task made of a row, under its id, checked: text, a label that counts, exact probabilities.

    Raises:
        MalformedRow: what is wrong with it.
    """
    if not isinstance(example, Example):
        raise MalformedRow(f"the task made a {type(example).__name__} of it: it should be an Example or None")
    prompt = as_text(example.prompt, "prompt")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise MalformedRow(f"the prompt is not valid Unicode ({error.reason})") from error
    try:
        label = operator.index(example.label)  # bool and numpy's whole numbers too
    except TypeError:
        raise MalformedRow(f"label {example.label!r} is not a whole number") from None
    if not 0 <= label < answers:
        raise MalformedRow(f"label {label} is not one of the {answers} answers")
    truth = example.truth
    if truth is not None and (
        len(truth) != answers or not all(0 < p <= 1 for p in truth) or not math.isclose(sum(truth), 1, abs_tol=1e-6)
    ):
        raise MalformedRow(f"truth {truth} is not a probability above 0 for each of the {answers} answers")
    return dataclasses.replace(example, id=name, label=label)


def held_out(rows: int, share: float) -> int:
    """The number of training examples that are set aside.

    Raises:
        ValueError: none, or all of them.
    """
    count = round(share * rows)
    if not 0 < count < rows:
        raise ValueError(
            f"A holdout of {share} leaves {rows - count} to train on and {count} to tune or score on, of {rows} "
            "examples: choose another share, or give the task more training examples (a method that tunes sets a tenth "
            "of them aside, so it needs 6)."
        )
    return count


def split_holdout(
    examples: Sequence[Example], share: float, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """(kept, held out): a random ``share`` of the training examples is set aside, chosen by ``seed`` and example id."""
    if share == 0:
        return tuple(examples), ()
    count = held_out(len(examples), share)
    ranked = sorted(examples, key=lambda example: digest(seed, example.id))
    held = {example.id for example in ranked[:count]}
    return tuple(e for e in examples if e.id not in held), tuple(e for e in examples if e.id in held)
