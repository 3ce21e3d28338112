"""IVON-2: the closed form of a matrix's prior against the evidence bound, and the optimizer under it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support import compute, plan
from torch.nn import Parameter

from bench.method import get_method
from bench.posterior import DiagGaussian
from bench.specs import key
from methods.ivon.adaptive import AdaptivePrior, prior_variance
from methods.ivon.optimizer import IVON


def divergence(mean: torch.Tensor, variance: torch.Tensor, prior: float) -> float:
    q = torch.distributions.Normal(mean, variance.sqrt())
    p = torch.distributions.Normal(torch.zeros_like(mean), prior**0.5)
    return float(torch.distributions.kl_divergence(q, p).sum())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_the_closed_form_is_where_the_evidence_bound_is_flat_and_highest(scale: float) -> None:
    """Only the KL depends on the prior. Finite differences in log s^2."""
    generator = torch.Generator().manual_seed(0)
    mean = scale * torch.randn(5, 7, generator=generator, dtype=torch.float64)
    variance = scale**2 * torch.rand(5, 7, generator=generator, dtype=torch.float64)
    best, step = float(prior_variance(mean, variance)), 1e-4
    around = [divergence(mean, variance, best * math.exp(shift)) for shift in (-step, 0, step)]
    assert abs(around[2] - around[0]) / (2 * step) < 1e-6
    assert (around[0] + around[2] - 2 * around[1]) / step**2 == pytest.approx(mean.numel() / 2, rel=1e-3)
    for factor in (0.1, 0.5, 2.0, 10.0):
        assert divergence(mean, variance, best * factor) > around[1]


def test_each_matrix_has_the_precision_of_its_own_prior_and_the_mean_is_not_pulled() -> None:
    wide, narrow = Parameter(torch.full((4,), 2.0)), Parameter(torch.full((3,), 1e-4))
    groups: Any = [{"params": [wide]}, {"params": [narrow]}]
    optimizer = IVON(groups, 0.1, ess=100.0, h0=0.5, beta1=0.0, beta2=1.0, shrink_mean=False)
    follow = AdaptivePrior(optimizer, smallest_sd=0.5)
    follow.update()
    expected = math.sqrt(4 + 1 / (100 * 0.5))
    assert follow.sds() == pytest.approx([expected, 0.5])
    delta = [group["weight_decay"] for group in optimizer.param_groups]
    assert delta == pytest.approx([1 / (100 * expected**2), 1 / (100 * 0.25)])
    variance = optimizer.posterior_variance()
    assert float(variance[1][0]) == pytest.approx(1 / (100 * (0.5 + delta[1])))
    with optimizer.sampled():
        (3 * wide.sum() + 0 * narrow.sum()).backward()
    optimizer.step()
    torch.testing.assert_close(wide.detach(), torch.full((4,), 2 - 0.1 * 3 / (0.5 + delta[0])))
    torch.testing.assert_close(narrow.detach(), torch.full((3,), 1e-4))


def test_the_prior_of_a_trained_matrix_is_the_closed_form(tmp_path: Path) -> None:
    run = plan("ivon2", steps=20, ivon2={"lr": 0.3, "h0": 0.01, "draws": 1})
    store = compute(run, tmp_path)
    posterior, facts = store.posterior(run.fit), store.fit_facts(run.fit)["diagnostics"]
    assert isinstance(posterior, DiagGaussian) and facts["ess"] == 5000 * 256**0.5
    sds = [max(float(prior_variance(m, posterior.variance[n])), 1e-4) ** 0.5 for n, m in posterior.mean.items()]
    assert facts["max_prior_sd"] > facts["min_prior_sd"]
    assert facts["max_prior_sd"] == pytest.approx(max(sds), rel=1e-3)
    assert facts["min_prior_sd"] == pytest.approx(min(sds), rel=1e-3)


def test_gamma_is_another_way_to_write_the_effective_sample_size(tmp_path: Path) -> None:
    same = [{"ess": 1.6e4}, {"gamma": 1000.0}]
    found = []
    for options in same:
        run = plan("ivon", ivon={"lr": 0.3, "h0": 0.01, "draws": 1, **options})
        found.append(compute(run, tmp_path).predictions(run)["log_probs"])
    assert (found[0] == found[1]).all()


def test_a_fixed_prior_is_in_no_key() -> None:
    assert key(plan("ivon")) == "e55adb3e46b8c738", "the key of the commit before these options"


def test_gamma_and_another_ess_are_not_both_planned_and_an_earlier_fit_with_both_is_read() -> None:
    for method, options in (("ivon2", {"ess": 1e3}), ("ivon", {"ess": 1e3, "gamma": 10.0})):
        with pytest.raises(ValueError, match=rf"^{method}\.ess is 1000 .* set {method}\.ess=[\de.+]+, its default"):
            plan(method, **{method: options})
        made: Any = get_method(method).make(options)
        assert made.ess == 1e3
    assert plan("ivon2", ivon2={"ess": 1e3, "gamma": 0}).fit.options["ess"] == 1e3
