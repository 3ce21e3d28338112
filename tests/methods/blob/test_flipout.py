"""Flipout: the moments of its noise, its gradients, and that it leaves nothing behind."""

from __future__ import annotations

import pytest
import torch
from tiny import CPU, FAMILIES, drawn, logits_of_draws, lora, one_batch, predict_job, saved
from torch import nn

from bench.model.adapters import Adapter
from bench.model.choice_model import ChoiceModel, load_model
from bench.posterior import DiagGaussian
from methods.blob.flipout import a_factors, flipout, flipout_log_probs


class Maps:
    """One A map (3, 5), as much of a model as a hook needs."""

    def __init__(self) -> None:
        self.linear = nn.Linear(5, 3, bias=False)
        self.adapters = {"a": Adapter(self.linear, self.linear, first=True)}


@pytest.fixture(scope="module")
def model() -> ChoiceModel:
    options, targets = FAMILIES["llama"]
    found = load_model(lora([*targets, "head"]), saved("llama", options), CPU)
    found.prepare(("A", "B"), 0)
    return found


@pytest.mark.slow
def test_noise_has_mean_zero_and_the_variance_of_a_draw_uncorrelated_between_tokens() -> None:
    """Monte Carlo over 20 000 passes: standard errors are 1 % of a variance."""
    maps, generator = Maps(), torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 5, generator=generator)
    sd = torch.rand(3, 5, generator=generator)
    plain = maps.linear(x)
    with torch.no_grad(), flipout(maps, ["a"], lambda name: sd, torch.Generator().manual_seed(1)):  # type: ignore[arg-type]
        noise = torch.stack([maps.linear(x) - plain for _ in range(20_000)]).double()
    expected = torch.einsum("kj,btj->btk", sd.square(), x.square()).double()
    torch.testing.assert_close(noise.square().mean(0), expected, rtol=0.05, atol=0)
    assert float((noise.mean(0) / expected.sqrt()).abs().max()) < 4 / 20_000**0.5
    tokens = (noise[:, 0, 0] * noise[:, 0, 1]).mean(0) / (expected[0, 0] * expected[0, 1]).sqrt()
    assert float(tokens.abs().max()) < 4 / 20_000**0.5


def test_gradients_reach_the_standard_deviations() -> None:
    maps, sd = Maps(), torch.full((3, 5), 0.1, requires_grad=True)
    x = torch.ones(1, 1, 5)
    with flipout(maps, ["a"], lambda name: sd.square(), torch.Generator().manual_seed(1)):  # type: ignore[arg-type]
        noisy = maps.linear(x)
        noisy.square().sum().backward()
    assert sd.grad is not None and bool((sd.grad != 0).all())


def test_nothing_is_left_behind_also_after_an_exception() -> None:
    maps, x = Maps(), torch.ones(1, 1, 5)
    before = maps.linear(x)
    with (
        pytest.raises(ZeroDivisionError),
        flipout(maps, ["a"], lambda name: torch.ones(3, 5), torch.Generator().manual_seed(1)),  # type: ignore[arg-type]
    ):
        raise ZeroDivisionError
    assert not maps.linear._forward_hooks and torch.equal(maps.linear(x), before)


def test_the_a_factors_are_half_of_the_matrices(model: ChoiceModel) -> None:
    names = a_factors(model)
    assert len(names) == len(model.params) / 2 and all("lora_A" in name for name in names)


def test_logits_have_the_variance_of_weight_draws_where_a_prompt_has_one_token(model: ChoiceModel) -> None:
    """The head's A map reads one row per prompt, so flipout and draws of its weights agree in mean and variance."""
    (head,) = [name for name in a_factors(model) if model.adapters[name].at_end]
    params = drawn(model, scale=0.1)
    batch = one_batch(model, ["Answer:"])
    sd = {head: torch.full_like(params[head], 0.2)}
    posterior = DiagGaussian(params, {head: sd[head].square()})
    with torch.no_grad(), model.assign(params):
        centre = model.logits(batch)[0]
        with flipout(model, sd, sd.__getitem__, torch.Generator().manual_seed(1)):
            noisy = torch.cat([model.logits(batch) for _ in range(400)])
        draws = posterior.draws(400, torch.Generator().manual_seed(2))
        weights = logits_of_draws(model, batch, draws).squeeze(1)
    assert float(weights.std(0).min()) > 0.01
    torch.testing.assert_close(noisy.std(0), weights.std(0), rtol=0.2, atol=0)  # standard error 5 %
    torch.testing.assert_close(noisy.mean(0), centre, rtol=0, atol=float(4 * weights.std(0).max() / 400**0.5))


def test_predictions_are_repeatable_and_scale_with_tau(model: ChoiceModel) -> None:
    params = drawn(model)
    posterior = DiagGaussian(params, {name: torch.full_like(params[name], 0.01) for name in a_factors(model)})
    one, again, wide = (flipout_log_probs(predict_job(model, posterior), posterior, 3, tau) for tau in (1.0, 1.0, 4.0))
    assert torch.equal(one, again) and one.shape == (3, 4, 2)
    doubled = DiagGaussian(params, {name: 4 * v for name, v in posterior.variance.items()})
    torch.testing.assert_close(wide, flipout_log_probs(predict_job(model, doubled), doubled, 3, 1.0))
