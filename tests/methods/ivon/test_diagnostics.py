"""IVON's figures, worked by hand, and the sentences that they raise."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from methods.ivon.diagnostics import PUBLISHED_RADIUS, VARIANCE_DRIFT_FACTOR, diagnostics, warnings
from methods.ivon.optimizer import IVON


def test_diagnostics_by_hand() -> None:
    a, b = Parameter(torch.zeros(2, dtype=torch.float64)), Parameter(torch.zeros(1))
    groups: list[dict[str, Any]] = [
        {"params": [a]},
        {"params": [b], "h0": 4.0, "ess": 5.0, "clip_radius": math.inf},
    ]
    optimizer = IVON(
        groups,
        0.1,
        ess=10.0,
        h0=1.0,
        clip_radius=0.5,
        beta1=0.0,
        beta2=1.0,
        weight_decay=1.0,
    )
    assert diagnostics(optimizer) == pytest.approx(
        {
            "steps": 0,
            "mean_variance": (1 / 20 * 2 + 1 / 25) / 3,
            "mean_variance_ratio": 1,
            "mean_h": 2,
            "min_h": 1,
            "min_precision": 2,
            "h_drift_mean": 1,
            "h_drift_min": 1,
            "h_drift_max": 1,
            "h_moved_share": 0,
            "clipped_share": 0,
        }
    )
    assert warnings(optimizer) == []
    with optimizer.sampled():
        (a[0] * 3 + a[1] * 0.1 + b[0] * 99).backward()  # a[0] steps 3 / 2 > 0.5: clipped; b has no clip radius
    optimizer.step()
    optimizer.state[a]["hessian"].copy_(torch.tensor([3.0, 0.25]))
    assert diagnostics(optimizer) == pytest.approx(
        {
            "steps": 1,
            "mean_variance": (1 / 40 + 1 / 12.5 + 1 / 25) / 3,
            "mean_variance_ratio": (1 / 40 + 1 / 12.5 + 1 / 25) / (2 / 20 + 1 / 25),
            "mean_h": 7.25 / 3,
            "min_h": 0.25,
            "min_precision": 1.25,
            "h_drift_mean": (3 + 0.25 + 1) / 3,
            "h_drift_min": 0.25,
            "h_drift_max": 3,
            "h_moved_share": 2 / 3,
            "clipped_share": 1 / 3,
        }
    )
    assert all(isinstance(value, float) for value in diagnostics(optimizer).values())


def test_warnings_fire_and_do_not_fire() -> None:
    w = Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = IVON([w], 0.03, ess=10.0, h0=1.0, clip_radius=2e-3, beta2=1.0)
    h = optimizer.state[w]["hessian"]
    factor = VARIANCE_DRIFT_FACTOR
    for value, word in ((factor * 0.99, None), (factor * 1.01, "raise it"), (1 / factor * 0.99, "lower it")):
        h.fill_(value)
        found = warnings(optimizer)
        assert found == [] if word is None else len(found) == 1 and word in found[0] and "factor of 2" in found[0]
    for value in (0.0, -1.0, math.nan, math.inf):
        h.fill_(1.0)[2] = value
        (sentence,) = warnings(optimizer)
        assert "not finite and positive" in sentence
    h.fill_(1.0)
    for size, fires in ((1.0, True), (1e-4, False)):
        with optimizer.sampled():
            (size * w).sum().backward()
        optimizer.state[w]["momentum"].zero_()
        optimizer.step()
        optimizer.zero_grad()
        assert diagnostics(optimizer)["clipped_share"] == float(fires)
        found = warnings(optimizer)
        assert len(found) == fires
        if fires:
            assert "sign momentum with steps of lr * clip_radius (at most 6e-05 now)" in found[0]
            optimizer.param_groups[0]["clip_radius"] = PUBLISHED_RADIUS
            assert warnings(optimizer) == []  # it always clips
            optimizer.param_groups[0]["clip_radius"] = 2e-3
    half = IVON([Parameter(torch.zeros(2, dtype=torch.bfloat16))], 0.03, ess=10.0, h0=1.0)
    assert len(warnings(half)) == 1 and "bfloat16" in warnings(half)[0]


def test_an_optimizer_without_coordinates_has_nothing_to_report() -> None:
    with pytest.raises(RuntimeError, match="holds no coordinates"):
        diagnostics(IVON([Parameter(torch.zeros(0))], 0.1, ess=10.0, h0=1.0))
