"""Holm's correction, against statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from analysis.statistics.bootstrap import Estimate
from analysis.statistics.differences import Difference, holm
from analysis.statistics.study import study


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_holm_is_that_of_statsmodels(size):
    ps = np.random.default_rng(size).uniform(size=size) ** 3
    ps[: size // 3] = ps[0]  # ties
    assert holm(ps.tolist()) == pytest.approx(multipletests(ps, method="holm")[1].tolist())


@pytest.mark.parametrize(
    ("metric", "seeds", "p", "verdict", "shown"),
    [
        ("accuracy", 3, 0.01, "better", True),
        ("nll", 3, 0.01, "worse", True),
        ("nll", 1, 0.01, "worse", False),  # of two fits
        ("nll", 3, 0.2, "no difference shown", False),
        ("confidence", 3, 0.01, "differs", False),  # neither more nor less of it is better
    ],
)
def test_a_verdict_says_what_is_better_and_only_several_seeds_show_it(store, metric, seeds, p, verdict, shown):
    store.add(store.spec("adamw"))
    (group,) = study(store.root).runs.results
    found = Difference(group, group, metric, Estimate(0.1, 0.05, 0.15, seeds, seeds, p), p)
    assert (found.verdict, found.shown) == (verdict, shown)
