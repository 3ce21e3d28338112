"""Results of one store that claim one data revision were computed on one set of rows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from support import compute, plan

from bench.data.identity import ChangedRows
from bench.data.splits import DataSource, Split, load_split
from bench.run.seen import Seen
from bench.specs import DataSpec
from bench.store.store import Store
from bench.task import get_task


def rows(split: str) -> Split:
    return load_split(get_task("notes_two"), split, DataSource())


def other(split: str) -> Split:
    """The split with one label changed."""
    first, *rest = rows(split).examples
    return Split((dataclasses.replace(first, label=1 - first.label), *rest), rows(split).rows, rows(split).official)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return compute(plan("zero_shot"), tmp_path_factory.mktemp("runs"))


DATA = plan("zero_shot").data


@pytest.mark.parametrize(("split", "source"), [("validation", "validation"), ("train", "train"), ("holdout", "train")])
def test_other_rows_of_a_revision_are_refused_and_the_same_pass(store: Store, split: str, source: str) -> None:
    Seen(store).check(DATA, split, rows(source))
    with pytest.raises(ChangedRows, match=r"The stored result [0-9a-f]{16} was computed on other rows"):
        Seen(store).check(DATA, split, other(source))


def test_what_the_store_does_not_hold_is_remembered(store: Store, tmp_path: Path) -> None:
    for seen, data, split in (
        (Seen(Store(tmp_path)), DATA, "train"),
        (Seen(store), DATA, "test"),
        (Seen(store), dataclasses.replace(DATA, revision="later"), "train"),
    ):
        seen.check(data, split, other(split))
        with pytest.raises(ChangedRows, match="this process"):
            seen.check(data, split, rows(split))


@pytest.mark.parametrize("damage", ["missing", "no fingerprint", "not JSON", "other types"])
def test_a_result_that_says_nothing_does_not_count(damage: str, tmp_path: Path) -> None:
    store = compute(plan("zero_shot"), tmp_path)
    for file in tmp_path.glob("*/*/facts.json"):
        facts = json.loads(file.read_text())
        if damage == "no fingerprint":  # as in early records
            del facts["examples"]["fingerprint"]
        file.write_text(
            {"missing": "", "not JSON": "{", "other types": '{"examples": 3}'}.get(damage, json.dumps(facts))
        )
    Seen(store).check(DATA, "validation", other("validation"))


def test_two_mirrors_do_not_meet_in_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 1 on some rows and seed 2 on others, under a revision that pins neither."""
    task = type(get_task("notes_two"))
    monkeypatch.setattr(task, "fingerprints", {})
    monkeypatch.setattr("bench.data.identity._identify", lambda task, source: (DATA, []))
    compute(plan("zero_shot"), tmp_path)
    real = load_split

    def changed(task: object, split: str, source: DataSource) -> Split:
        return other(split) if split == "validation" else real(get_task("notes_two"), split, source)

    monkeypatch.setattr("bench.data.identity.load_split", changed)
    with pytest.raises(ChangedRows, match="although both have the same data revision"):
        compute(plan("zero_shot", seed=2), tmp_path)
    assert isinstance(DATA, DataSpec) and not Store(tmp_path).has(plan("zero_shot", seed=2))
