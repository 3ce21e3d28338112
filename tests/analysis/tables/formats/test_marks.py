"""Marks of significant differences: against one row of the baseline, or none."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.statistics.differences import compare
from analysis.statistics.study import study
from analysis.tables import headline, results
from analysis.tables.formats.marks import marks

N = 200


def add(store, method: str, sharpness: float, place: int, seeds: tuple[int, ...] = (1, 2, 3), **options) -> None:
    """A result of each seed; answer 0 is always right."""
    for seed in seeds:
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


@pytest.mark.parametrize("seeds", [(1,), (3, 4, 5)])
def test_one_shared_seed_compares_two_fits_and_marks_nothing(store, seeds) -> None:
    add(store, "adamw", 1.0, 0, seeds=(1,) if seeds == (1,) else (1, 2, 3))
    add(store, "ivon", 4.0, 1, seeds=seeds)
    found = study(store.root)
    single = [one for one in found.once(compare)[0] if one.estimate.seeds == 1 and one.verdict in ("better", "worse")]
    assert single and not any(one.shown for one in single)
    assert "▲" not in results.TABLE.body(found) + headline.TABLE.body(found)
    (said,) = results.compute(found)[1]
    assert said.endswith("so a difference is one of two fits, not of two methods.") and "ivon (notes)" in said
