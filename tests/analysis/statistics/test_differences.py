"""Holm's correction, against statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from analysis.statistics.differences import holm


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_holm_is_that_of_statsmodels(size):
    ps = np.random.default_rng(size).uniform(size=size) ** 3
    ps[: size // 3] = ps[0]  # ties
    assert holm(ps.tolist()) == pytest.approx(multipletests(ps, method="holm")[1].tolist())
