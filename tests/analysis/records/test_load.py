"""A damaged, edited or hostile record is named and left out, and the rest goes on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from analysis.figures import clock
from analysis.records.load import load
from analysis.report import write_report
from analysis.statistics.study import study
from analysis.tables.reproduction import compare_published
from bench.specs import canonical

LABELS = np.array([0, 1] * 10)
TRUTH = np.log(np.full((20, 2), 0.5))


def predicted(seed: int) -> Any:
    logits = np.random.default_rng(seed).normal(size=(2, 20, 2))
    return (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))).astype(np.float32)


def fill(store: Any) -> Path:
    """Two seeds; returns the folder of the second, which is to be damaged."""
    store.add(store.spec(seed=1), log_probs=predicted(1), labels=LABELS, truth=TRUTH)
    return store.add(store.spec(seed=2), log_probs=predicted(2), labels=LABELS, truth=TRUTH)


def edit(folder: Path, change: Any) -> None:
    facts = json.loads((folder / "facts.json").read_text())
    change(facts)
    (folder / "facts.json").write_text(json.dumps(facts))


def rewrite(folder: Path, ids: Any = None, **arrays: Any) -> None:
    """Other predictions, with the right hash."""
    file = folder / "predictions.safetensors"
    stored = {**load_file(file), **arrays}
    kept = {name: np.ascontiguousarray(value) for name, value in stored.items() if value is not None}
    names = [f"test/{n}" for n in range(20)] if ids is None else ids
    save_file(kept, file, {"ids": canonical(names)})
    edit(folder, lambda facts: facts["files"].update({file.name: hashlib.sha256(file.read_bytes()).hexdigest()}))


def left_out(store: Any, folder: Path) -> str:
    """The sentence on the damaged record; the other one must still be there."""
    loaded = load(store.root)
    assert [group.seeds for group in loaded.results] == [(1,)]
    (sentence,) = loaded.excluded
    assert folder.name in sentence
    return sentence


@pytest.mark.parametrize("metric", ["accuracy", "nll", "ece", "brier", "excess_nll"])
def test_a_metric_that_its_predictions_do_not_have(store, metric):
    folder = fill(store)
    edit(folder, lambda facts: facts["metrics"].update({metric: 7.0}))
    assert f"facts.json says {metric} is 7, its predictions give" in left_out(store, folder)


def test_a_metric_that_is_missing_is_recomputed(store):
    """As for one that was added after the record was written."""
    folder = fill(store)
    expected = load(store.root).results[0].values("brier")
    edit(folder, lambda facts: facts["metrics"].pop("brier"))
    assert load(store.root).results[0].values("brier") == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"labels": LABELS + 5}, "labels go from 5 to 6: there are 2 answers"),
        ({"labels": LABELS - 1}, "labels go from -1 to 0"),
        ({"labels": LABELS[:-1]}, "they should be 20 integers"),
        ({"labels": LABELS.astype(np.float64)}, "they should be 20 integers"),
        ({"log_probs": predicted(2) * np.nan}, "should sum to one"),
        ({"log_probs": predicted(2) + 1}, "should sum to one"),
        ({"log_probs": predicted(2)[:, :-1]}, "facts.json says 2 draws of 20 examples"),
        ({"log_probs": predicted(2)[0]}, "facts.json says 2 draws of 20 examples"),
        ({"log_probs": None}, "not a file of predictions"),
        ({"truth": TRUTH[:-1]}, "truth is float64 (19, 2)"),
        ({"truth": None}, "its predictions lack the truth"),
        ({"ids": ["a"] * 19}, "ids are not 20 names"),
        ({"ids": {"a": 1}}, "ids are not 20 names"),
    ],
)
def test_predictions_of_the_wrong_kind(store, arrays, says):
    folder = fill(store)
    rewrite(folder, **arrays)
    assert says in left_out(store, folder)


def test_predictions_that_are_not_there_or_not_those_of_the_facts(store):
    folder = fill(store)
    file = folder / "predictions.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "does not match the hash in facts.json" in left_out(store, folder)
    file.unlink()
    assert "is missing" in left_out(store, folder)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in JSON data that is not an object with something in it."""
    if isinstance(value, dict) and value:
        return [leaf for name, inner in value.items() for leaf in leaves(inner, (*path, name))]
    return [path]


@pytest.mark.parametrize("junk", [None, "x", [], -1, 10**400])
def test_no_leaf_of_the_facts_stops_the_leaderboard(store, tmp_path, junk):
    """The record is named, or its value is one that a record may have: never a traceback, never another mean."""
    folder = fill(store)
    whole = (folder / "facts.json").read_text()
    both = load(store.root).results[0].values("nll")
    for path in leaves(json.loads(whole)):
        facts = json.loads(whole)
        inner = facts
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = junk
        (folder / "facts.json").write_text(json.dumps(facts))
        loaded = load(store.root)
        seeds = [group.seeds for group in loaded.results]
        if seeds == [(1,)]:
            assert folder.name in loaded.excluded[0], path
        else:
            assert [v for g in loaded.results for v in g.values("nll")] == both, path


@pytest.mark.parametrize("junk", [None, "x", [], -1, 10**400])
def test_no_leaf_of_a_fits_facts_stops_a_report(store, junk):
    folder = fill(store)
    key = json.loads((folder / "facts.json").read_text())["fit"]["key"]
    file = store.root / "fits" / key / "facts.json"
    facts = json.loads(file.read_text())
    for path in (("provenance", "versions"), ("provenance", "dirty"), ("seconds", "train"), ("steps",)):
        changed = json.loads(json.dumps(facts))
        inner = changed
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = junk
        file.write_text(json.dumps(changed))
        loaded = load(store.root)
        assert [group.seeds for group in loaded.results] == [(1, 2)]
        legal = path == ("provenance", "dirty") and junk is None
        assert legal or (key in loaded.excluded[0] and "fit-missing" in loaded.results[0].origin.flags)


def test_a_trace_that_is_no_trace_is_named(store):
    folder = fill(store)
    whole = study(store.root)
    record = next(r for r in whole.runs.results[0].records if r.folder == folder)
    trace = store.root / "fits" / record.facts.fit_key / "trace.jsonl"
    for text in ('{"step": null, "seconds": 1}', "[]", "{", '{"step": 1, "seconds": NaN}'):
        trace.write_text(text + "\n")
        whole = study(store.root)
        drawn, notes = clock.draw(whole, whole.sections[0])
        assert drawn == [] and any("trace.jsonl is not used" in note for note in notes)


def test_predictions_are_opened_once_in_a_report(store, tmp_path, monkeypatch):
    from analysis import report

    monkeypatch.setattr(report, "FIGURES", {})
    fill(store)
    opened: list[Path] = []
    read = Path.read_bytes

    def counted(self: Path) -> bytes:
        opened.append(self)
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", counted)
    report.write_report(store.root, tmp_path / "report")
    predictions = [file for file in opened if file.name == "predictions.safetensors"]
    assert len(predictions) == len(set(predictions)) == 2


def test_an_output_folder_that_is_a_file_is_refused_first(store, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        for write in (write_report, compare_published):
            with pytest.raises(ValueError, match="is a file: give --out the name of a folder"):
                write(tmp_path / "no store", out)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_unchecked_choice_is_refused(store):
    fill(store)
    with pytest.raises(ValueError, match="no result of the variant 'x'"):
        study(store.root, main="x")
