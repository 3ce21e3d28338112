"""The identity of data: rows are compared with those that the spec names each time they are read."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.data.protocol import HOLDOUT
from bench.data.rows import makes_rows
from bench.data.splits import DataSource, Split, load_split
from bench.specs import DataSpec, canonical
from bench.task import Task, get_task

logger = logging.getLogger(__name__)


class ChangedRows(ValueError):
    """Rows are not those that a spec names, or that a stored result was computed on."""


def data_spec(task: Task, source: DataSource) -> DataSpec:
    """The identity of a task's data: its pinned revision, with hashes of the rows that nothing pins.

    ``+partial:<hash>`` names the splits of which rows are missing; ``+rows:<hash>`` the complete ones that come from a
    local mirror, or from the task's own code, and are not those whose fingerprint the task pins. Rows are read where
    one of the two is possible, so data from the hub is not read. A split that cannot be read is left out: whoever needs
    it is told why.
    """
    spec, unpinned = _identify(task, source)
    if unpinned and task.fingerprints and source.data_dir is not None:
        _tell_unpinned(task.name, ", ".join(unpinned), source.data_dir, spec.revision)
    return spec


def _identify(task: Task, source: DataSource) -> tuple[DataSpec, list[str]]:
    """The identity of a task's data, and the complete splits whose rows are not those that the task pins."""
    partial, unpinned = [], []
    for split in task.rows:
        try:
            loaded = load_split(task, split, source) if _may_differ(task, split, source) else None
        except (OSError, ValueError):
            continue
        if loaded is None:
            continue
        if loaded.rows < loaded.official:
            partial.append([split, loaded.fingerprint])
        elif loaded.fingerprint != task.fingerprints.get(split):
            unpinned.append([split, loaded.fingerprint])
    revision = task.revision
    for mark, splits in (("partial", partial), ("rows", unpinned)):
        if splits:
            revision += f"+{mark}:" + hashlib.sha256(canonical(splits).encode()).hexdigest()[:12]
    return DataSpec(task=task.name, version=task.version, revision=revision), [split for split, _ in unpinned]


def _may_differ(task: Task, split: str, source: DataSource) -> bool:
    if makes_rows(task):
        return split not in task.fingerprints
    return source.data_dir is not None or source.allow_partial


@functools.lru_cache  # once for each set of rows
def _tell_unpinned(task: str, splits: str, data_dir: Path, revision: str) -> None:
    logger.warning(
        "The rows of '%s' (%s) in %s are not known to be those of the pinned revision: their results are stored under "
        "the data revision %s, and not averaged with others.", task, splits, data_dir, revision,
    )  # fmt: skip


def load_planned(data: DataSpec, split: str, task: Task, source: DataSource) -> Split:
    """The split of the data that a spec names, after the rows were found to be those.

    Raises:
        ChangedRows: they, or the task, were changed since the spec was made.
        LookupError, OSError, ValueError: as :func:`load_split`.
    """
    found, _ = _identify(task, source)
    if found != data:
        raise ChangedRows(
            f"The rows of '{task.name}' are not those that this run was planned with: it names {_words(data)}, and "
            f"{source.data_dir or 'the task'} now has {_words(found)}. Restore the rows, or run the command again: "
            "results on other rows have a key of their own."
        )
    return load_split(task, split, source)


def check_rows(needed: Iterable[tuple[DataSpec, str]], source: DataSource) -> None:
    """Read splits, (data, split) each, as runs will, so that what is wrong with one is told before any work.

    Raises:
        ChangedRows, LookupError, OSError, ValueError: as :func:`load_planned`.
    """
    for data, split in dict.fromkeys(needed):
        load_planned(data, "train" if split == HOLDOUT else split, get_task(data.task), source)


def _words(data: DataSpec) -> str:
    return f"version {data.version} at {data.revision}"


def check_same_rows(split: Split, stored: Mapping[str, Any], what: str) -> None:
    """Refuse ``what``, a stored result, if it was computed on other rows than ``split`` now has.

    Args:
        stored: the facts of its examples. Without a fingerprint, as in early records, it stays unchecked.

    Raises:
        ChangedRows: the fingerprints differ.
    """
    fingerprint = stored.get("fingerprint")
    if fingerprint is not None and fingerprint != split.fingerprint:
        raise ChangedRows(
            f"{what} was computed on other rows than those at hand (fingerprint {fingerprint}, not "
            f"{split.fingerprint}), although both have the same data revision. Restore those rows, or use "
            "another store (--runs)."
        )
