"""Which published orderings hold: signs and significance on made-up predictions."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest

from analysis.records.published import published
from analysis.statistics.study import study
from analysis.tables.orderings import HOLDS, OPEN, REVERSED, orderings, section_text
from analysis.tables.orderings import rows as orderings_rows
from bench.cli.main import main

LABELS = np.arange(200) % 4


def log_probs(confidence: float, right: int, seed: int) -> np.ndarray:
    """(1, 200, 4): ``right`` of the answers are right, all with nearly the same confidence."""
    rng = np.random.default_rng(seed)
    answers = np.where(np.arange(200) < right, LABELS, (LABELS + 1) % 4)
    sure = confidence + rng.uniform(-0.01, 0.01, 200)
    probabilities = np.repeat(((1 - sure) / 3)[:, None], 4, 1)
    probabilities[np.arange(200), answers] = sure
    return np.log(probabilities)[None].astype(np.float32)


@pytest.fixture
def runs(store):
    """On arc_c AdamW is overconfident, IVON less and SWA more so; SWAG is like AdamW."""
    for seed in range(1, 6):
        for method, confidence in {"adamw": 0.9, "ivon": 0.7, "swa": 0.97, "swag": 0.9}.items():
            spec = store.spec(method, "arc_c", seed, protocol="paper")
            spec = dataclasses.replace(spec, split="validation")
            store.add(spec, log_probs=log_probs(confidence, 130 + seed % 3, 10 * seed + len(method)), labels=LABELS)
    return store


def test_an_ordering_holds_is_reversed_or_open(runs):
    found = {(o.ours.group.spec.method, o.ours.metric): o for o in orderings(study(runs.root))}
    assert found["ivon", "ece"].verdict == HOLDS  # published: 10.7 against 31.4
    assert found["swa", "ece"].verdict == REVERSED  # published: 24.6 against 31.4
    assert found["swag", "ece"].verdict == OPEN
    ece = published()["ece", "ivon", "arc_c"].mean - published()["ece", "adamw", "arc_c"].mean
    assert found["ivon", "ece"].theirs == pytest.approx(ece) and ece == pytest.approx(-0.207)
    assert found["ivon", "accuracy"].verdict == OPEN  # the same answers
    assert not {method for method, _ in found} - {"ivon", "swa", "swag"}


def test_a_reader_with_another_baseline_sees_the_same_orderings(runs):
    ours = [(o.ours.group.name, o.ours.metric, o.verdict) for o in orderings(study(runs.root))]
    assert [(o.ours.group.name, o.ours.metric, o.verdict) for o in orderings(study(runs.root, "swa"))] == ours


def test_the_comparison_counts_them_and_writes_them(runs, tmp_path, capsys):
    assert main(["compare", "published", "--runs", str(runs.root), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    found = orderings(study(runs.root))
    held = sum(o.verdict == HOLDS for o in found)
    assert f"Of {len(found)} published differences from adamw, {held} hold here, " in said
    rows = list(csv.DictReader((tmp_path / "out" / "orderings.csv").open()))
    assert [row["verdict"] for row in rows] == [o.verdict for o in found]
    (section,) = study(runs.root).sections
    assert "vs -20.7 **holds**" in section_text(section, found)


def test_a_figure_that_is_missing_on_either_side_is_no_ordering(store):
    store.add(dataclasses.replace(store.spec("adamw", "arc_c", 1, protocol="paper"), split="validation"))
    assert orderings(study(store.root)) == []


def test_several_rows_of_the_baseline_are_told_apart(runs, tmp_path):
    for seed in range(1, 6):
        spec = dataclasses.replace(runs.spec("adamw", "arc_c", seed, protocol="paper"), split="validation")
        fit = dataclasses.replace(spec.fit, options={**spec.fit.options, "lr": 1e-3})
        spec = dataclasses.replace(spec, fit=fit)
        runs.add(spec, log_probs=log_probs(0.5, 130, 70 + seed), labels=LABELS)
    known = study(runs.root)
    found = orderings(known)
    names = {o.ours.baseline.name for o in found}
    assert len(names) == 2
    said = section_text(known.sections[0], found)
    each = len(found) // 2
    assert all(f"Of {each} published differences from {name}, " in said for name in names)
    assert {row["baseline"] for row in orderings_rows(found)} == names
