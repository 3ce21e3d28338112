"""What data a spec names: what enters the revision, and what is refused because it changed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from mirrors import mirror, winogrande

from bench.data import rows as raw
from bench.data.identity import ChangedRows, check_rows, check_same_rows, data_spec, load_planned
from bench.data.splits import DataSource, load_split
from bench.task import get_task

WG_S = get_task("wg_s")


def revision(folder: Path, allow_partial: bool = False) -> str:
    return data_spec(WG_S, DataSource(folder, allow_partial)).revision


def test_unlike_mirrors_have_unlike_identities_wherever_they_lie(tmp_path: Path) -> None:
    first, second, copy = (revision(mirror(tmp_path / name, shift)) for name, shift in (("a", 0), ("b", 1), ("c", 0)))
    assert first == copy != second
    assert first.startswith(f"{WG_S.revision}+rows:")


def test_rows_that_are_the_pinned_ones_have_the_identity_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = DataSource(mirror(tmp_path))
    pins = {split: load_split(WG_S, split, source).fingerprint for split in WG_S.rows}
    monkeypatch.setattr(type(WG_S), "fingerprints", pins)
    assert data_spec(WG_S, source) == data_spec(WG_S, DataSource())
    monkeypatch.setattr(type(WG_S), "fingerprints", {"train": pins["train"]})
    assert "+rows:" in data_spec(WG_S, source).revision  # validation is vouched for by nothing


def test_partial_and_unpinned_splits_are_both_named(tmp_path: Path) -> None:
    found = revision(mirror(tmp_path, train=30, validation=1267), allow_partial=True)
    assert found.count("+partial:") == found.count("+rows:") == 1


def test_a_split_that_is_missing_or_damaged_is_left_to_those_who_need_it(tmp_path: Path) -> None:
    whole = revision(mirror(tmp_path / "a"))
    mirror(tmp_path / "b", train=640)
    damaged = mirror(tmp_path / "c") / "allenai/winogrande/winogrande_s/validation-00000-of-00001.parquet"
    damaged.write_bytes(b"PAR1 no PAR1")
    assert revision(tmp_path / "b") == revision(tmp_path / "c") != whole


def test_rows_that_are_not_the_pinned_ones_are_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            found = revision(mirror(tmp_path, shift=1))
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"The rows of 'wg_s' (train, validation) in {tmp_path} are not known to be those of the ")
    assert found in said


@pytest.mark.parametrize("counts", [{}, {"train": 30, "validation": 20}])
def test_rows_that_changed_after_the_plan_are_refused_by_name(tmp_path: Path, counts: dict[str, int]) -> None:
    source = DataSource(mirror(tmp_path, **counts), allow_partial=bool(counts))
    planned = data_spec(WG_S, source)
    assert load_planned(planned, "train", WG_S, source).rows == counts.get("train", 640)
    mirror(tmp_path, shift=1, **counts)
    with pytest.raises(ChangedRows, match=r"^The rows of 'wg_s' are not those that this run was planned with") as error:
        load_planned(planned, "train", WG_S, source)
    assert planned.revision in str(error.value) and str(tmp_path) in str(error.value)
    mirror(tmp_path, **counts)
    assert load_planned(planned, "train", WG_S, source).rows == counts.get("train", 640)


def test_another_version_of_the_task_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = data_spec(get_task("colours"), DataSource())
    monkeypatch.setattr(type(get_task("colours")), "version", 2)
    with pytest.raises(ChangedRows, match=r"it names version 1 at .* the task now has version 2 at "):
        load_planned(planned, "train", get_task("colours"), DataSource())


# --- rows that a task makes -------------------------------------------------------------------------------------------


def test_generated_rows_without_pins_are_part_of_the_identity(reading: None, monkeypatch: pytest.MonkeyPatch) -> None:
    colours = get_task("colours")
    before = data_spec(colours, DataSource())
    rows = {split: list(colours.generate(split) or []) for split in colours.rows}
    rows["train"][3] = {**rows["train"][3], "name": "black"}
    monkeypatch.setattr(type(colours), "generate", lambda self, split: rows[split])
    assert data_spec(colours, DataSource()) == before  # the rows of this process stay what they were
    raw._generated.clear()
    after = data_spec(colours, DataSource())
    assert after != before
    with pytest.raises(ChangedRows, match="The rows of 'colours'"):
        load_planned(before, "train", colours, DataSource())


def test_generated_rows_that_are_not_the_pinned_ones_are_refused(
    reading: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = get_task("notes_two")
    rows = list(notes.generate("train") or [])
    rows[0] = {**rows[0], "label": 1 - rows[0]["label"]}
    monkeypatch.setattr(type(notes), "generate", lambda self, split: rows)
    with pytest.raises(ValueError, match=r"^notes_two/train: these are not the train rows that NotesTwo pins") as error:
        load_split(notes, "train", DataSource())
    assert "raise the task's `revision`" in str(error.value)


# --- rows of the hub --------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(reading: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """hub(shift) makes the hub hand out WinoGrande-S with its answers moved."""
    import datasets

    def serve(shift: int) -> None:
        raw._from_hub.cache_clear()
        counts = WG_S.rows
        monkeypatch.setattr(datasets, "load_dataset", lambda *a, split, **k: winogrande(counts[split], shift))

    return serve


def test_hub_rows_that_are_not_the_pinned_ones_are_refused(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(0)
    with pytest.raises(ValueError, match=r"^allenai/winogrande \(winogrande_s, train\): these are not the ") as error:
        load_split(WG_S, "train", DataSource())
    assert "fetch it again" in str(error.value)
    assert data_spec(WG_S, DataSource()).revision == WG_S.revision  # the plan reads nothing
    monkeypatch.setattr(type(WG_S), "fingerprints", {"validation": "0" * 16})
    assert load_split(WG_S, "train", DataSource()).rows == 640  # nothing to compare with


def test_a_stored_result_on_other_rows_is_refused_and_one_that_does_not_say_is_not(tmp_path: Path) -> None:
    ours, theirs = (load_split(WG_S, "train", DataSource(mirror(tmp_path / str(n), n))) for n in range(2))
    check_same_rows(ours, ours.facts, "The fit")
    check_same_rows(ours, {}, "The fit")
    said = f"^The fit was computed on other rows .*{theirs.fingerprint}, not {ours.fingerprint}"
    with pytest.raises(ChangedRows, match=said):
        check_same_rows(ours, theirs.facts, "The fit")


@pytest.mark.parametrize("split", ["validation", "train", "holdout"])
def test_the_splits_that_runs_need_are_read_and_no_others(tmp_path: Path, split: str) -> None:
    source = DataSource(mirror(tmp_path))
    planned = data_spec(WG_S, source)
    check_rows([(planned, split)] * 3, source)
    mirror(tmp_path, 1, **{"train" if split == "holdout" else split: 640 if split != "validation" else 1267})
    with pytest.raises(ChangedRows):
        check_rows([(planned, split)], source)
