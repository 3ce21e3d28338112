"""Marks of significant differences: against one row of the baseline, or none."""

from __future__ import annotations

import numpy as np

from analysis.statistics.differences import compare
from analysis.statistics.study import study
from analysis.tables import results
from analysis.tables.formats.marks import marks

N = 200


def add(store, method: str, sharpness: float, place: int, **options) -> None:
    """A result of each of three seeds; answer 0 is always right."""
    for seed in (1, 2, 3):
        noise = 0.1 * np.random.default_rng(100 * seed + place).normal(size=N)
        logits = np.stack([sharpness + noise, np.zeros(N)], axis=-1)
        log_probs = (logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)).astype(np.float32)[None]
        store.add(store.spec(method, seed=seed, **options), log_probs=log_probs, labels=np.zeros(N, int))


def test_two_rows_of_the_baseline_leave_numbers_unmarked_and_it_is_told(store) -> None:
    add(store, "adamw", 3.0, 0, fit_options={"lr": 1e-3})
    add(store, "swa", 3.0, 1)
    add(store, "ivon", 4.0, 2)
    found = study(store.root)
    shown = marks(found.once(compare)[0])
    assert {name for _, name, _, _ in shown} == {"ivon"} and results.compute(found)[1] == []

    add(store, "adamw", 0.0, 3, fit_options={"lr": 1e-9})  # hardly trained: swa is better than this row
    found = study(store.root)
    differences = found.once(compare)[0]
    assert any(one.shown and one.group.name == "swa" for one in differences) and marks(differences) == {}
    (said,) = results.compute(found)[1]
    assert "adamw (lr=0.001) and adamw (lr=1e-09) are all rows of the baseline" in said
    assert "▲" not in results.TABLE.body(found)
