"""ScalaBL: both KLs, the noise of training, the posterior and its columns, and the base families that it takes."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support import compute
from support import plan_few as plan
from tiny import CPU, FAMILIES, drawn, fit_job, logits_of_draws, lora, one_batch, predict_job, saved
from torch.distributions import Normal, kl_divergence

from bench.model.choice_model import ChoiceModel, load_model
from methods.blob.flipout import a_factors
from methods.laplace.curvature import jacobians
from methods.scalabl import RowScale, Scalabl, columns, noisy_rows, start_from_singular_vectors


def tiny_model(family: str = "llama") -> ChoiceModel:
    options, targets = FAMILIES[family]
    model = load_model(lora([*targets, "head"]), saved(family, options), CPU)
    model.prepare(("A", "B", "C"), 0)
    return model


@pytest.fixture(scope="module")
def model() -> ChoiceModel:
    return tiny_model()


def posterior_of(model: ChoiceModel, sd: float = 0.3) -> RowScale:
    """Random B, V and s; sd differs from row to row."""
    params = drawn(model)
    names = a_factors(model)
    directions = {name: torch.linalg.svd(params[name], full_matrices=False).Vh for name in names}
    means = {name: params[name][:, :1] * directions[name] for name in names}
    sds = {name: sd * params[name][:, 1].abs() for name in names}
    return RowScale({**params, **means}, directions, sds)


@pytest.mark.parametrize("kl", ["reverse", "as_published"])
def test_kl_gradients_are_those_of_autograd(kl: Any) -> None:
    method = Scalabl(kl=kl, prior_sd=0.7)
    generator = torch.Generator().manual_seed(0)
    log_s, log_sd = (torch.randn(6, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    q, p = Normal(log_s.exp(), log_sd.exp()), Normal(torch.zeros(()), torch.full((), 0.7))
    divergence = (kl_divergence(q, p) if kl == "reverse" else kl_divergence(p, q)).sum()
    for found, expected in zip(
        method.kl_gradients(log_s, log_sd), torch.autograd.grad(divergence, [log_s, log_sd]), strict=True
    ):
        torch.testing.assert_close(found.detach(), expected)


@pytest.mark.parametrize(("kl", "best"), [("reverse", 1.0), ("as_published", math.sqrt(1 + 0.58**2))])
def test_the_published_kl_wants_a_sd_above_the_priors(kl: Any, best: float) -> None:
    log_s = torch.full((1,), math.log(0.58), dtype=torch.float64)
    slopes = [float(Scalabl(kl=kl).kl_gradients(log_s, (log_s * 0 + x * best).log())[1]) for x in (0.9, 1, 1.1)]
    assert slopes[0] < 0 < slopes[2] and slopes[1] == pytest.approx(0, abs=1e-9)


def test_starts_from_the_singular_vectors_of_a() -> None:
    a = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    v = a.clone()
    s = start_from_singular_vectors(v).detach().exp()
    torch.testing.assert_close(v @ v.T, torch.eye(4), rtol=0, atol=1e-6)
    torch.testing.assert_close(v.T @ s.square().diag() @ v, a.T @ a, rtol=0, atol=1e-5)  # only U is dropped
    with pytest.raises(ValueError, match=r"needs lora\.r of at most 3"):
        start_from_singular_vectors(torch.randn(4, 3))


def test_the_noise_of_training_is_a_draw_of_the_posterior(model: ChoiceModel) -> None:
    posterior = posterior_of(model)
    names = a_factors(model)
    log_s = {n: (posterior.location[n].norm(dim=1)).log().requires_grad_() for n in names}
    signed = {n: posterior.location[n] / log_s[n].detach().exp().unsqueeze(1) for n in names}  # +-V
    log_sd = {n: posterior.sd[n].log().requires_grad_() for n in names}
    mean = {**posterior.location, **signed}
    batch = one_batch(model)
    with model.assign(mean):
        with noisy_rows(model, log_s, log_sd, torch.Generator().manual_seed(4)):
            noisy = model.logits(batch)
            noisy.sum().backward()  # type: ignore[no-untyped-call]
        assert not any(model.adapters[name].linear._forward_hooks for name in names)
    draws = RowScale(posterior.location, signed, posterior.sd).draws(1, torch.Generator().manual_seed(4))
    with torch.no_grad():
        torch.testing.assert_close(noisy.detach(), model.logits(batch, next(iter(draws))), rtol=0, atol=1e-5)
    assert all(value.grad is not None and bool(value.grad.any()) for value in (*log_s.values(), *log_sd.values()))


def test_draws_scale_rows(model: ChoiceModel) -> None:
    posterior = posterior_of(model)
    name = a_factors(model)[0]
    count, tau = 4000, 0.25
    draws = list(posterior.draws(count, torch.Generator().manual_seed(2), tau))
    noise = torch.stack([draw[name] - posterior.location[name] for draw in draws])
    along = (noise * posterior.direction[name]).sum(-1)
    torch.testing.assert_close(noise, along.unsqueeze(-1) * posterior.direction[name], rtol=0, atol=1e-5)
    expected = tau * posterior.sd[name].square().diag()
    width = float(expected.max())
    torch.testing.assert_close(along.T @ along / count, expected, rtol=0, atol=4 * width * math.sqrt(2 / count))
    b = name.replace("lora_A", "lora_B")
    assert all(torch.equal(draw[b], posterior.location[b]) for draw in draws[:3])


def test_columns_are_the_jacobians_along_v(model: ChoiceModel) -> None:
    posterior, names, batch = posterior_of(model), a_factors(model), one_batch(model)
    with model.assign(posterior.mean):
        found, logits = columns(model, batch, posterior.direction)
        full, other = jacobians(model, batch, names)
    torch.testing.assert_close(logits, other)
    for name in names:
        assert found[name].shape == (4, 3, 8)
        expected = (full[name] * posterior.direction[name]).sum(-1)
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(posterior.covariance_along(found), posterior.covariance(full), rtol=1e-4, atol=1e-7)


def test_linearised_prediction_agrees_with_many_draws_where_the_spread_is_small(model: ChoiceModel) -> None:
    """A covariance of the logits from 500 draws has a relative standard error of about 6 %."""
    posterior = posterior_of(model, sd=0.02)
    batch = one_batch(model)
    with torch.no_grad():
        draws = posterior.draws(500, torch.Generator().manual_seed(3))
        sampled = logits_of_draws(model, batch, draws).double()
    with model.assign(posterior.mean):
        found, _ = columns(model, batch, posterior.direction)
    noise = sampled - sampled.mean(0)
    covariance = torch.einsum("sbc,sbd->bcd", noise, noise) / 500
    linear = posterior.covariance_along(found)
    scale = linear.diagonal(dim1=1, dim2=2).amax()
    torch.testing.assert_close(covariance / scale, linear / scale, rtol=0, atol=0.2)
    one = Scalabl(predictive="linearised").predict(predict_job(model, posterior, ("A", "B", "C")))
    many = Scalabl(draws=100).predict(predict_job(model, posterior, ("A", "B", "C"))).double().logsumexp(0)
    assert one.shape == (1, 4, 3)
    torch.testing.assert_close(one[0].exp(), many.exp().float() / 100, rtol=0, atol=0.01)


@pytest.mark.parametrize("family", ["gpt2", "opt", "gemma2", "qwen2"])
def test_every_familys_adapters_learn_their_singular_values(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    model.check_maps()
    method = Scalabl(kl_weight="elbo", lr=1e-2, draws=2)
    posterior = method.fit(fit_job(model, tmp_path, steps=4, batch_size=2))
    assert isinstance(posterior, RowScale)
    assert posterior.uncertain == a_factors(model) and len(posterior.uncertain) == len(posterior.location) / 2
    for name, v in posterior.direction.items():
        rows = posterior.location[name]
        torch.testing.assert_close(rows, rows.norm(dim=1, keepdim=True) / v.norm(dim=1, keepdim=True) * v)
    assert method.predict(predict_job(model, posterior, ("A", "B", "C"))).shape == (2, 4, 3)


def test_no_variance_is_the_mean(tmp_path: Path) -> None:
    options = {"lr": 3e-2, "draws": 2}
    runs = [
        plan("scalabl", scalabl=options | {"tau": 0, "predictive": predictive})
        for predictive in ("draws", "linearised")
    ]
    one, other = (torch.from_numpy(compute(run, tmp_path).predictions(run)["log_probs"]) for run in runs)
    assert one.shape[0] == 1 and torch.equal(one, other)


def test_adapters_that_are_not_plain_maps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this method handles linear maps only"):
        compute(plan("scalabl", lora={"variant": "dora"}), tmp_path)


def test_a_training_that_ends_within_the_first_cycle_names_a_setting_that_there_is(tmp_path: Path) -> None:
    run = plan("scalabl")
    (said,) = [line for line in compute(run, tmp_path).fit_facts(run.fit)["warnings"] if "first cycle" in line]
    advice = re.search(r"or set scalabl\.(\w+)=(\w+)\.$", said)
    assert advice is not None
    option, value = advice.groups()
    assert plan("scalabl", scalabl={option: value}).fit.options[option] == value
