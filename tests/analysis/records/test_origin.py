"""Flags: what is known of a record and changes what its number means is told, and rows of unlike data stay apart."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.records.load import load
from analysis.records.origin import DISQUALIFYING, FLAGS
from analysis.statistics.differences import compare
from analysis.statistics.ranks import rankings
from analysis.statistics.seed_values import detections
from analysis.statistics.study import study
from analysis.tables import results
from analysis.tables.leaderboard import leaderboard_rows

LABELS = np.array([0, 1] * 10)
COMMITS = ({"commit": "a" * 40}, {"commit": "b" * 40})


def predicted(seed=0):
    logits = np.random.default_rng(seed).normal(size=(1, 20, 2))
    return (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))).astype(np.float32)


def flags(store):
    return {group.name: group.origin.flags for group in load(store.root).results}


@pytest.mark.parametrize(
    ("flag", "facts"),
    [
        ("truncated", {"examples": {"truncated": 3}}),
        ("truncated", {"train_examples": {"truncated": 3}}),
        ("cue-lost", {"examples": {"cue_lost": 1}}),
        ("cue-lost", {"train_examples": {"cue_lost": 1}}),
        ("evidence-slope", {"diagnostics": {"log_evidence_slope": -4.0}}),
        ("mixed-commits", {"attempts": COMMITS}),
        ("plugin", {"provenance": {"plugins": [{"module": "mine", "sha256": None}]}}),
        ("no-commit", {"provenance": {"commit": None, "dirty": None}}),
        ("dirty", {"provenance": {"dirty": True}}),
        ("partial", {"partial": True}),
        ("unchecked", {"examples": {"fingerprint": None}}),
    ],
)
def test_a_fact_that_changes_what_a_number_means_is_a_flag(store, flag, facts):
    if facts.get("examples", {}).get("fingerprint", "") is None:
        facts = {"examples": {}, "no_fingerprint": True}
    store.add(store.spec("adamw"), {"nll": 1.0, "accuracy": 0.5})
    store.add(store.spec("ivon"), {"nll": 0.5, "accuracy": 0.9}, **facts)
    assert flags(store) == {"adamw": (), "ivon": (flag,)}
    (row,) = [r for r in leaderboard_rows(load(store.root).results) if r["method"] == "ivon" and r["metric"] == "nll"]
    assert row["flags"] == flag
    text = results.TABLE.body(study(store.root))
    assert f"[{flag}]" in text and ("**0.500**" in text) is (flag not in DISQUALIFYING)


@pytest.mark.parametrize(
    ("from_steps", "mixed"),
    [
        ((0, 0), False), ((0, 500, 0), False), ((0, 0, 500), True), ((0, 500), True),
        ((0, None, 500), True), ((None, None, 0), False), ((0, 500, None, 0), False),
    ],
)  # fmt: skip
def test_only_attempts_whose_steps_are_in_the_fit_mix_commits_and_machines(store, from_steps, mixed):
    attempts = [
        {
            "commit": str(n) * 40,
            "device": "Abacus" if n == len(from_steps) - 1 else f"Slide rule {n}",
            "from_step": step,
        }
        for n, step in enumerate(from_steps)
    ]
    store.add(store.spec("adamw"), {"nll": 1.0}, attempts=attempts)
    assert flags(store) == {"adamw": ("mixed-commits", "mixed-devices") if mixed else ()}
    machines = load(store.root).results[0].origin.machines
    assert (len(machines) == 2) is mixed and machines[0] == "Abacus (1 thread)"


@pytest.mark.parametrize("facts", [{"log_evidence_slope": 0.01}, {"log_evidence_slope": "steep"}, {}])
def test_a_flat_evidence_is_no_flag(store, facts):
    store.add(store.spec(), {"nll": 1.0}, diagnostics=facts)
    assert flags(store) == {"adamw": ()}


def test_a_given_prior_precision_may_have_any_slope(store):
    spec = store.spec(fit_options={"prior_precision": 3.0})
    store.add(spec, {"nll": 1.0}, diagnostics={"log_evidence_slope": 40.0})
    assert flags(store) == {"adamw": ()}


def test_every_disqualifying_flag_is_explained():
    assert set(DISQUALIFYING) < set(FLAGS)


def test_seeds_on_unlike_rows_are_never_averaged(store):
    """Two mirrors, one revision: each row keeps its own data, both are flagged, neither is best or ranked."""
    for seed, rows in ((1, "A"), (2, "A"), (3, "B")):
        for method, nll in (("adamw", 1.0), ("ivon", 0.5)):
            store.add(store.spec(method, seed=seed), {"nll": nll + seed, "accuracy": 0.5}, rows=rows)
    groups = load(store.root).results
    assert sorted(group.seeds for group in groups) == [(1, 2), (1, 2), (3,), (3,)]
    assert all(group.origin.flags == ("mixed-data",) for group in groups)
    assert len({group.name for group in groups}) == 4 and all("(data=" in group.name for group in groups)
    assert len({group.hash for group in groups}) == 4
    whole = study(store.root)
    assert "**" not in results.TABLE.body(whole).replace("**NLL (nats) ↓**", "").replace("**Accuracy (%) ↑**", "")
    assert rankings(whole)[0] == []


def test_methods_on_unlike_rows_are_never_paired(store):
    for method, rows in (("adamw", "A"), ("ivon", "B"), ("swag", "A")):
        store.add(store.spec(method), log_probs=predicted(), labels=LABELS, rows=rows)
    found, notes = compare(study(store.root))
    assert {(d.group.spec.method, d.baseline.spec.method) for d in found} == {("swag", "adamw")}
    assert any("No difference of ivon" in note and "mixed-data" in note for note in notes)


def test_a_fit_on_one_mirror_scored_on_another_is_flagged(store):
    """`bench run` of a method that borrows a fit: the record says what its fit was trained on."""
    base = store.spec("adamw")
    store.add(base, {"nll": 1.0}, rows="A")
    store.add(store.spec("mc_dropout", bases=(base.fit,)), {"nll": 0.5}, rows="B")
    assert flags(store) == {"adamw": ("mixed-data",), "mc_dropout": ("mixed-data",)}


def test_other_tasks_of_the_store_are_not_touched(store):
    for rows in ("A", "B"):
        store.add(store.spec("adamw", seed=ord(rows)), {"nll": 1.0}, rows=rows)
    store.add(store.spec("adamw", "other"), {"nll": 1.0})
    assert {group.task: group.origin.flags for group in load(store.root).results} == {
        "notes": ("mixed-data",), "other": (),
    }  # fmt: skip


def test_a_pair_for_detection_on_unlike_rows_is_refused(store):
    home = store.spec("ivon", "obqa")
    away = store.spec("ivon", "obqa", eval_task="arc_c")
    store.add(home, log_probs=predicted(), labels=LABELS, rows="A")
    store.add(away, log_probs=predicted(1), labels=LABELS, rows="B")
    rows, notes = detections(study(store.root))
    assert "auroc_entropy" not in rows[0].values and "mixed-data" in notes[0]
