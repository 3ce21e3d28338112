"""Samplers: the posterior of a linear model, the temperature, the cycles, and the step written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import compute, plan
from toy import Linear, Linears

from bench.method import get_method
from bench.posterior import Members
from methods.sgld import CyclicalSgld, Langevin, PreconditionedSgld, Sgld

N = 64


def collected(method: Any, tmp_path: Path, steps: int, chains: int = 1) -> tuple[Linear, torch.Tensor]:
    """A model, and the samples of chains that read the same rows and have noise of their own."""
    toy = Linear(N, 4, white=True, prior_sd=1.0)
    job = Linears([toy] * chains, [N] * chains).job(tmp_path, steps=steps)
    found = method.fit(job)
    assert isinstance(found, Members) and len(found) == job.facts["samples"]
    return toy, torch.cat([found.values["a"], found.values["b"]], -1).double().flatten(0, 1)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
@pytest.mark.parametrize("kind", ["sgld", "psgld"])
def test_the_samples_are_of_the_posterior_at_the_temperature(kind: str, temperature: float, tmp_path: Path) -> None:
    """Precision N + 1 in every direction; a gradient of N rows drawn with replacement has a noise of variance 1 / N.

    A step of size a makes theta an autoregression with the factor 1 - a h, h = 1 + 1 / N, and a noise of the variance
    2 a T / N + a^2 / N: the stationary variance is that over 1 - (1 - a h)^2, which is T / (N + 1) as a goes to 0.
    """
    options = {"temperature": temperature, "samples": 100, "burn_in": 0.5, "prior_sd": 1.0}
    size, h = 0.05, 1 + 1 / N
    wanted = (2 * size * temperature / N + size**2 / N) / (1 - (1 - size * h) ** 2)
    rms = (1 / N + wanted * h**2) ** 0.5  # of a gradient
    made: Any = Sgld(lr=size, **options) if kind == "sgld" else PreconditionedSgld(lr=size * rms, **options)
    toy, samples = collected(made, tmp_path, steps=1600, chains=4)
    assert len(samples) == 400
    assert ((samples.mean(0) - toy.mean) / wanted**0.5).abs().max() < 0.5
    assert float(samples.var(0).mean() / wanted) == pytest.approx(1, rel=0.2)
    assert wanted == pytest.approx(temperature / (N + 1), rel=0.3)


def test_a_cycle_descends_without_noise_and_then_samples(tmp_path: Path) -> None:
    made = CyclicalSgld(lr=0.1, cycles=4, samples=8, burn_in=0.5)
    assert made.sample_steps(80) == [15, 20, 35, 40, 55, 60, 75, 80]
    assert [made.schedule(t / 80) for t in (0, 10, 20, 30)] == pytest.approx([1, 0.5, 1, 0.5])
    assert [made.noisy(t / 80) for t in (0, 9, 10, 19, 20, 30)] == [False, False, True, True, False, True]
    _, cold = collected(CyclicalSgld(lr=0.1, cycles=4, samples=8, temperature=0.0), tmp_path / "a", steps=80)
    _, warm = collected(made, tmp_path / "b", steps=80)
    assert len(cold) == len(warm) == 8 and not torch.equal(cold, warm)


def test_samples_of_a_short_training_have_noise_and_are_told_to_be_few(tmp_path: Path) -> None:
    made = CyclicalSgld(lr=0.1, cycles=4, samples=20)
    for steps in range(20, 60):
        assert all(made.noisy((done - 1) / steps) for done in made.sample_steps(steps))
    toy = Linear(N, 4, white=True, prior_sd=1.0)
    job = Linears([toy], [N]).job(tmp_path, steps=30)
    found = made.fit(job)
    assert isinstance(found, Members) and 2 <= len(found) < 20
    assert f"30 steps are too few for csgld.samples=20: the posterior has {len(found)} samples." in job.warnings


def test_parameters_without_a_prior_drift_with_their_gradient_alone() -> None:
    """DoRA's magnitudes, whose start is not 0."""
    values = [torch.ones(2, requires_grad=True) for _ in range(2)]
    for value in values:
        value.grad = torch.full((2,), 0.5)
    step = Langevin(values, 0.1, precision=3.0, variance=lambda: 0.0, generator=torch.Generator(), free=values[1:])
    step.step()
    assert torch.allclose(values[0], torch.full((2,), 1 - 0.1 * 3.5))
    assert torch.allclose(values[1], torch.full((2,), 1 - 0.1 * 0.5))


@pytest.mark.parametrize("decay", [None, 0.9])
def test_a_step_is_that_of_the_formula(decay: float | None) -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    made = Langevin(
        [parameter], 0.1, precision=0.5, variance=lambda: 0.02, decay=decay,
        generator=torch.Generator().manual_seed(7),
    )  # fmt: skip
    value, square = parameter.detach().clone(), None
    noise = torch.Generator().manual_seed(7)
    for gradient in (torch.tensor([3.0, 0.5]), torch.tensor([-1.0, 2.0])):
        parameter.grad = gradient
        made.step()
        square = gradient**2 if square is None else 0.9 * square + 0.1 * gradient**2
        scale = 0.1 * (torch.ones(2) if decay is None else 1 / (1e-5 + square.sqrt()))
        value = value - scale * (gradient + 0.5 * value)
        value = value + (2 * 0.02 * scale).sqrt() * torch.randn(2, generator=noise)
        torch.testing.assert_close(parameter.detach(), value)


@pytest.mark.parametrize("name", ["sgld", "csgld", "psgld"])
def test_a_temperature_other_than_one_is_stored_with_a_warning(name: str, tmp_path: Path) -> None:
    run = plan(name, "colours", **{name: {"temperature": 0.5}})
    facts = compute(run, tmp_path).fit_facts(run.fit)
    assert facts["diagnostics"]["temperature"] == 0.5 and facts["diagnostics"]["samples"] >= 2
    assert any(f"posterior to the power 1/0.5: {name}.temperature is not 1" in said for said in facts["warnings"])
    plain = plan(name, "colours")
    assert not any("temperature" in said for said in compute(plain, tmp_path).fit_facts(plain.fit)["warnings"])


def test_too_few_samples_are_refused_before_any_work() -> None:
    with pytest.raises(ValueError, match=r"sgld collects 1 sample in 2 steps, .* raise steps, or lower sgld\.burn_in"):
        plan("sgld", steps=2)
    with pytest.raises(ValueError, match=r"sgld\.samples is 1: must be at least 2"):
        get_method("sgld").make({"samples": 1})


def test_all_cycles_collect_as_many_samples() -> None:
    assert len(CyclicalSgld(cycles=5, samples=10).sample_steps(10_000)) == 10
    assert CyclicalSgld(samples=19).samples == 19, "a stored fit of an earlier version can be read"
    with pytest.raises(
        ValueError, match=r"csgld\.samples is 19 and csgld\.cycles 4: .* make samples a multiple of cycles"
    ):
        plan("csgld", csgld={"samples": 19})
