"""Whether a store's other results were computed on the rows at hand, as their common data revision promises."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.data.identity import check_same_rows
from bench.data.protocol import HOLDOUT
from bench.data.splits import Split
from bench.process.reading import regular
from bench.specs import DataSpec, canonical
from bench.store.store import Store


class Seen:
    """The fingerprint of every split that results of a store were computed on, read as far as needed."""

    def __init__(self, store: Store) -> None:
        self._known: dict[tuple[str, str], tuple[str, str]] = {}  # (data, split) -> (fingerprint, result)
        self._rest = _fingerprints(store.root)

    def check(self, data: DataSpec, name: str, split: Split) -> None:
        """Refuse a split on other rows than the store's results of the same data revision.

        Results without a fingerprint, as in early records, do not count.

        Raises:
            ChangedRows: a result has another fingerprint; the message names it.
        """
        wanted = (canonical(data), _source(name))
        while wanted not in self._known:
            found = next(self._rest, None)
            if found is None:
                self._known[wanted] = (split.fingerprint, "this process")
                break
            where, fingerprint, result = found
            self._known.setdefault(where, (fingerprint, result))
        fingerprint, result = self._known[wanted]
        check_same_rows(split, {"fingerprint": fingerprint}, f"The stored result {result}")


def _source(split: str) -> str:
    """The split that examples are from."""
    return "train" if split == HOLDOUT else split


def _fingerprints(root: Path) -> Iterator[tuple[tuple[str, str], str, str]]:
    """((data, split), fingerprint, key) of every result that has one. Damaged records are left to their readers."""
    for kind in ("evals", "fits"):
        for folder in (root / kind).glob("[0-9a-f]*"):
            try:
                spec, facts = (json.loads(regular(folder / name).read_bytes()) for name in ("spec.json", "facts.json"))
                fingerprint = facts["examples"]["fingerprint"]
                where = (_data(spec["data"]), _source(spec.get("split", "train")))
            except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
                continue
            if isinstance(fingerprint, str):
                yield where, fingerprint, folder.name


def _data(data: dict[str, Any]) -> str:
    return canonical(DataSpec(**data))
