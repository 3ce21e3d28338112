"""IVON as a method of the suite."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import compute
from support import plan_few as plan

from bench.posterior import DiagGaussian


def test_a_frozen_hessian_gives_one_variance_from_start_to_end(tmp_path: Path) -> None:
    options = {"lr": 0.3, "ess": 1e4, "h0": 0.02, "weight_decay": 0.005}
    frozen, moving = (plan("ivon", ivon={**options, "beta2": beta2}) for beta2 in (1.0, 0.9))
    posterior = compute(frozen, tmp_path).posterior(frozen.fit)
    assert isinstance(posterior, DiagGaussian)
    (variance,) = {float(value) for part in posterior.variance.values() for value in part.unique()}
    assert variance == pytest.approx(1 / (1e4 * 0.025))
    facts = [compute(run, tmp_path).fit_facts(run.fit)["diagnostics"] for run in (frozen, moving)]
    assert (facts[0]["h_drift_min"], facts[0]["h_drift_max"]) == pytest.approx((1, 1), rel=1e-6)
    assert facts[0]["h_moved_share"] == 0 < facts[1]["h_moved_share"]
