"""The Adam posterior: AdamW's adapters and moments, and the scale that makes them a Fisher information."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import compute
from support import plan_few as plan
from toy import Linear, Linears, flat, of_model

from bench.posterior import DiagGaussian
from methods.adam_posterior import AdamMoments, Moments
from methods.search import mixture_nll

SETTINGS: dict[str, Any] = {
    "adamw": {"lr": 1e-2},
    "adam_posterior": {"search_draws": 1, "points": 4, "lowest": 1.0, "highest": 1e6, "draws": 1},
    "steps": 12,
}


def test_the_mean_is_adamws_with_adamws_settings_and_the_moments_are_its_own(tmp_path: Path) -> None:
    names = ("adamw", "adam_moments", "adam_posterior")
    runs = {name: plan(name, **SETTINGS, protocol="clean") for name in names}
    stores = {name: compute(run, tmp_path) for name, run in runs.items()}
    assert runs["adam_moments"].fit.options == runs["adamw"].fit.options
    posteriors = {name: stores[name].posterior(run.fit) for name, run in runs.items()}
    for name, value in posteriors["adamw"].mean.items():
        assert torch.equal(value, posteriors["adam_moments"].mean[name])
        assert torch.equal(value, posteriors["adam_posterior"].mean[name])
    moments, gaussian = posteriors["adam_moments"], posteriors["adam_posterior"]
    assert isinstance(moments, Moments) and isinstance(gaussian, DiagGaussian)
    facts = stores["adam_posterior"].fit_facts(runs["adam_posterior"].fit)
    precision = facts["diagnostics"]["prior_precision"]
    assert min(abs(precision / value - 1) for value in (1, 1e2, 1e4, 1e6)) < 1e-9 and facts["steps"] == 0
    for name, squares in moments.squares.items():
        assert (squares > 0).all()
        torch.testing.assert_close(gaussian.variance[name], 1 / (58 * 4 * squares + precision))


def test_the_moments_are_those_that_adam_divides_by(tmp_path: Path) -> None:
    """Gradients of 2, 4, 6, ... at every step: the average that the formula gives."""
    job: Any = Linear(8, 4, white=False, prior_sd=1).job(tmp_path, steps=5)
    sizes = iter(range(2, 99, 2))
    job.loss = lambda batch: next(sizes) * sum(p.sum() for p in job.model.params.values())
    found = AdamMoments(lr=1e-3, beta2=0.9).fit(job)
    assert isinstance(found, Moments)
    weights = torch.tensor([0.9 ** (5 - t) * 0.1 for t in range(1, 6)], dtype=torch.float64) / (1 - 0.9**5)
    expected = (weights * torch.tensor([4.0, 16.0, 36.0, 64.0, 100.0])).sum()
    torch.testing.assert_close(flat(found.squares), expected.expand(4), rtol=1e-5, atol=0)


SIZES = (2, 8, 32)


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> tuple[Linears, Moments]:
    """One model for each batch size, and the moments of their training."""
    toys = Linears([Linear(256, 6, white=True, prior_sd=1e3)] * len(SIZES), SIZES)
    found = AdamMoments(lr=0.01, beta2=0.997).fit(toys.job(tmp_path_factory.mktemp("moments"), steps=3000))
    assert isinstance(found, Moments)
    return toys, found


@pytest.mark.parametrize("size", SIZES)
def test_kappa_is_the_batch_size(size: int, moments: tuple[Linears, Moments]) -> None:
    """The Fisher information of N examples is sum_n r_n^2 x_n^2 with residuals r: it is N B times Adam's average."""
    toys, found = moments
    number = SIZES.index(size)
    toy, n = toys.models[number], 256
    residuals = (toy.y - toy.x @ of_model(found.mean, number).float()).double()
    fisher = (residuals.unsqueeze(1) * toy.x.double()).square().sum(0)
    squares = of_model(found.squares, number)
    assert (n * size * squares).sum() == pytest.approx(float(fisher.sum()), rel=0.1)
    assert fisher.mean() == pytest.approx(n, rel=0.25)  # noise of unit variance


def test_the_precision_is_the_best_of_the_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def noted(log_probs: torch.Tensor, labels: torch.Tensor) -> float:
        seen.append(mixture_nll(log_probs, labels))
        return seen[-1]

    monkeypatch.setattr("methods.search.mixture_nll", noted)
    run = plan("adam_posterior", **SETTINGS)
    found = compute(run, tmp_path).fit_facts(run.fit)["diagnostics"]
    assert len(seen) == 4 and found["tuning_loss"] == min(seen)
    best = [1, 1e2, 1e4, 1e6][seen.index(min(seen))]
    assert found["prior_precision"] == pytest.approx(best)


def test_a_fixed_precision_and_kappa_are_kept_and_an_end_of_the_grid_is_warned_of(tmp_path: Path) -> None:
    values = {**SETTINGS, "adam_posterior": {"prior_precision": 50.0, "kappa": 2.0, "draws": 1}}
    fixed = plan("adam_posterior", **values)
    store = compute(fixed, tmp_path)
    posterior, moments = store.posterior(fixed.fit), store.posterior(fixed.fit.bases[0])
    assert isinstance(posterior, DiagGaussian) and isinstance(moments, Moments)
    for name, squares in moments.squares.items():
        torch.testing.assert_close(posterior.variance[name], 1 / (58 * 2 * squares + 50))
    ends = {**SETTINGS["adam_posterior"], "points": 2}
    narrow = plan("adam_posterior", **{**SETTINGS, "adam_posterior": ends})
    (sentence,) = compute(narrow, tmp_path).fit_facts(narrow.fit)["warnings"]
    assert "raise adam_posterior.highest" in sentence or "lower adam_posterior.lowest" in sentence


def test_an_empty_grid_gets_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"lowest is 10 and adam_posterior\.highest 1: the grid is empty"):
        plan("adam_posterior", adam_posterior={"lowest": 10, "highest": 1})
