"""BLoB: its KL, its update, the tempered posterior that it must find, and the base families that it takes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support import compute
from support import plan_few as plan
from tiny import CPU, FAMILIES, fit_job, lora, predict_job, saved
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from toy import Linear, ToyJob, ToyModel

from bench.model.adapters import Adapter
from bench.model.choice_model import load_model
from bench.posterior import DiagGaussian
from methods.blob.blob import Blob, Cycles
from methods.blob.blob import kl_divergence as blob_kl
from methods.blob.flipout import a_factors
from methods.blob.optimizer import AdamThenSgd, cycle_length, cycle_weight

NAME = "x.lora_A.weight"


@pytest.mark.parametrize("parametrisation", ["square", "softplus"])
def test_kl_gradients_are_those_of_autograd(parametrisation: Any) -> None:
    blob = Blob(parametrisation=parametrisation, prior_sd=0.3)
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(3, 5, generator=generator, dtype=torch.float64).requires_grad_()
    rho = torch.randn(3, 5, generator=generator, dtype=torch.float64).requires_grad_()
    divergence = blob_kl(mean, blob.sd(rho), 0.3)
    expected = torch.autograd.grad(divergence, [mean, rho])
    exact = kl_divergence(Normal(mean, blob.sd(rho)), Normal(0.0, 0.3)).sum()
    torch.testing.assert_close(divergence, exact, rtol=1e-3, atol=0)  # but for the published jitter
    for found, gradient in zip(blob.kl_gradients(mean, rho), expected, strict=True):
        torch.testing.assert_close(found.detach(), gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("parametrisation", ["square", "softplus"])
def test_both_parametrisations_start_from_the_same_standard_deviations(parametrisation: Any) -> None:
    blob = Blob(parametrisation=parametrisation)
    rho = blob.initial_rho(torch.zeros(100, 100), torch.Generator().manual_seed(1))
    sd = blob.sd(rho).detach()
    assert rho.is_leaf and rho.requires_grad
    assert 0.00125 <= float(sd.min()) < 0.00126 and 0.00249 < float(sd.max()) <= 0.0025 + 1e-9


def test_cycles_have_the_published_lengths_and_their_weights_sum_to_one() -> None:
    lengths = {640: 316, 1117: 393, 4957: 706, 9427: 909}  # WG-S, ARC-C, OBQA, BoolQ
    assert {n: cycle_length(n, 4, 8.0) for n in lengths} == lengths
    for length in (1, 2, 316, 2000):
        weights = [cycle_weight(step, length) for step in range(2 * length)]
        assert weights[:length] == weights[length:]
        assert sum(weights[:length]) == pytest.approx(1, abs=2.0**-length)
        assert weights[length - 1] == pytest.approx(2.0**length / (2 ** (length + 1) - 1) if length < 1000 else 0.5)


def test_a_step_is_adamw_on_the_loss_then_sgd_on_the_kl() -> None:
    mean, other = (nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    rho, reference = nn.Parameter(torch.tensor([0.5, 0.4])), nn.Parameter(torch.tensor([1.0, -2.0]))
    kl: list[Tensor] = []

    def gradients() -> list[tuple[Tensor, Tensor]]:
        kl.append(mean.detach().clone())  # AdamW has moved it, and nothing has moved rho
        assert torch.equal(rho, torch.tensor([0.5, 0.4]))
        return [(mean, 10 * mean.detach()), (rho, torch.ones(2))]

    settings = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-6}
    optimizer = AdamThenSgd([mean, other], [rho], kl_lr=0.01, kl=gradients, **settings)  # type: ignore[arg-type]
    adam = torch.optim.AdamW([reference], weight_decay=0.0, **settings)  # type: ignore[arg-type]
    for parameter in (mean, other, reference):
        parameter.grad = torch.tensor([0.3, -0.7])
    rho.grad = torch.tensor([2.0, 4.0])
    optimizer.step()
    adam.step()
    assert torch.equal(other, reference) and torch.equal(kl[0], reference.detach())
    torch.testing.assert_close(mean.detach(), 0.9 * reference.detach())
    torch.testing.assert_close(rho.detach(), torch.tensor([0.5, 0.4]) - 0.01 * torch.tensor([3.0, 5.0]))
    assert rho not in optimizer.state


class OneAdapter(ToyModel):
    """y = b A x with b known: one A factor (1, d) behind a linear map, as a hook sees it."""

    def __init__(self, d: int) -> None:
        self.device, self.forwards = CPU, 0
        self.linear = nn.Linear(d, 1, bias=False)
        nn.init.zeros_(self.linear.weight)
        self.params = {NAME: self.linear.weight}
        self.adapters = {NAME: Adapter(self.linear, self.linear, first=True)}


class AdapterJob(ToyJob):
    """The toy's loss through the adapter, with b = 2."""

    def loss(self, batch: Any, params: Any = None) -> Tensor:
        rows = list(batch)
        found: Tensor = 2 * self.model.linear(self.toy.x[rows]).squeeze(-1)  # type: ignore[attr-defined]
        return (self.toy.y[rows] - found).square().mean() / 2


@pytest.mark.slow
@pytest.mark.parametrize(("kl", "gamma"), [("elbo", 8.0), ("cycle", 24.0)])
def test_finds_the_variances_of_the_tempered_posterior(tmp_path: Path, kl: Any, gamma: float) -> None:
    """sd_j^2 = 1 / (1 / beta^2 + M b^2 mean x_j^2), with M the inverse of the KL's mean weight; of 8 weights each."""
    toy = Linear(40, 32, white=False, prior_sd=1)
    toy.x *= torch.tensor([0.5, 1.0, 2.0, 0.1]).repeat(8)
    model = OneAdapter(32)
    like = toy.job(tmp_path, steps=2500, batch_size=20)
    job = AdapterJob(like.spec, lambda: model, like.encode, like.checkpointing, toy=toy)  # type: ignore[arg-type, return-value]
    blob = Blob(kl=kl, gamma=gamma, lr=0.01, kl_lr=0.005, prior_sd=0.5, rho0=0.7)
    found = blob.fit(job)
    assert isinstance(found, DiagGaussian)
    inverse = 40 if kl == "elbo" else cycle_length(40, 20, gamma)
    expected = 1 / (1 / 0.5**2 + inverse * 2**2 * toy.x.square().mean(0))
    assert float(expected.max() / expected.min()) > 3
    ratios = (found.variance[NAME][0] / expected).view(8, 4).mean(0)
    torch.testing.assert_close(ratios, torch.ones(4), rtol=0, atol=0.1)
    assert not model.linear._forward_hooks


def test_no_draws_are_the_mean_and_so_is_no_variance(tmp_path: Path) -> None:
    options = {"lr": 3e-2, "rho0": 0.5}
    runs = [
        plan("blob", blob=options | {"draws": 0}),
        plan("blob", blob=options | {"draws": 0, "predictive": "flipout"}),
        plan("blob", blob=options | {"tau": 0, "predictive": "flipout"}),
        plan("blob_mean", blob=options),
    ]
    found = [torch.from_numpy(compute(run, tmp_path).predictions(run)["log_probs"]) for run in runs]
    assert all(torch.equal(found[0], other) for other in found[1:])
    drawn = plan("blob", blob=options | {"draws": 3, "predictive": "flipout"})
    noisy = torch.from_numpy(compute(drawn, tmp_path).predictions(drawn)["log_probs"])
    assert noisy.shape[0] == 3 and float((noisy - found[0]).abs().max()) > 1e-3


def test_a_training_that_ends_within_the_first_cycle_is_named(tmp_path: Path) -> None:
    run = plan("blob")
    store = compute(run, tmp_path)
    (said,) = [line for line in store.fit_facts(run.fit)["warnings"] if "cycle" in line]
    assert "ends after 8 steps, within the first cycle of 128 KL weights" in said and "set blob.kl=elbo" in said


def test_cycles_survive_a_kill() -> None:
    cycles = Cycles(3, lambda: {"sd_median": 0.5})
    for done in range(1, 8):
        cycles.note(done)
    again = Cycles(3, dict)
    again.load_state_dict(cycles.state_dict())
    assert again.rows == [{"step": 3, "sd_median": 0.5}, {"step": 6, "sd_median": 0.5}]


@pytest.mark.parametrize("family", ["gpt2", "opt", "gemma2", "qwen2"])
def test_every_familys_adapters_are_perturbed_and_learn_their_spread(family: str, tmp_path: Path) -> None:
    options, targets = FAMILIES[family]
    model = load_model(lora([*targets, "head"]), saved(family, options), CPU)
    model.prepare(("A", "B"), 0)
    model.check_maps()
    blob = Blob(kl="elbo", lr=1e-2, kl_lr=1e-3, draws=2, predictive="flipout")
    posterior = blob.fit(fit_job(model, tmp_path, steps=4, batch_size=2))
    assert isinstance(posterior, DiagGaussian)
    assert posterior.uncertain == a_factors(model) and len(posterior.uncertain) == len(posterior.location) / 2
    assert all(float(v.max()) > 0.0025**2 for v in posterior.variance.values())  # all have left their start
    assert blob.predict(predict_job(model, posterior)).shape == (2, 4, 2)


@pytest.mark.parametrize("name", ["blob", "blob_mean"])
def test_adapters_that_are_not_plain_maps_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this method handles linear maps only"):
        compute(plan(name, lora={"variant": "dora"}), tmp_path)


def test_a_cycle_that_no_training_reaches_overflows_nothing() -> None:
    assert cycle_length(10_000, 4, 1e-3) == 2**62 and cycle_length(10_000, 4, 0.5) == 2**62
    assert cycle_length(10**5, 1, math.pi * math.log(1e5) / 39.9) == 2**62
    assert cycle_length(2241, 4, 8.0) == int(100 * 2241 ** (math.pi / 8) / 4)
