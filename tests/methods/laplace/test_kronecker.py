"""Kronecker factors and their Gaussian, against the GGN multiplied out."""

from __future__ import annotations

import pytest
import torch
from curvature_oracle import CPU, dense, exact_ggn, gaussian, summed

from bench.data.batches import Encoded
from bench.model.choice_model import ChoiceModel
from bench.task import Example
from methods.laplace.curvature import Tape
from methods.laplace.kronecker import Factor


@pytest.mark.parametrize("convention", ["expand", "reduce"])
def test_kfac_of_one_prompt_of_one_token_is_each_block_of_the_ggn(model: ChoiceModel, convention: str) -> None:
    one = Encoded(((7,),), (Example("x", 1),), 0, CPU, 0)
    ours, exact = dense(summed(model, [one.batch([0])], one, convention)), exact_ggn(model, one)
    sizes = [p.numel() for p in model.params.values()]
    blocks = torch.block_diag(*[torch.ones(size, size, dtype=torch.float64) for size in sizes])
    torch.testing.assert_close(ours, exact * blocks, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("convention", ["expand", "reduce"])
def test_kfac_ignores_padding_and_how_the_data_are_cut(model: ChoiceModel, data: Encoded, convention: str) -> None:
    whole = summed(model, [data.batch([0, 1, 2])], data, convention)
    ones = summed(model, [data.batch([row]) for row in (2, 0, 1)], data, convention)
    torch.testing.assert_close(dense(whole), dense(ones), rtol=1e-7, atol=1e-10)


def test_the_factors_are_what_the_conventions_say(model: ChoiceModel, data: Encoded) -> None:
    """From the recorded rows of single, unpadded prompts."""
    name = next(n for n in model.params if "lora_B" in n)
    ours = {c: summed(model, [data.batch([0, 1, 2])], data, c) for c in ("expand", "reduce")}
    inputs = {c: torch.zeros(2, 2, dtype=torch.float64) for c in ours}
    tokens = sum(map(len, data.tokens))
    for row, prompt in enumerate(data.tokens):
        x = Tape(model, data.batch([row]), [name]).inputs[name][0, -len(prompt) :]
        inputs["expand"] += x.T @ x / tokens
        inputs["reduce"] += torch.outer(x.mean(0), x.mean(0)) / len(data)
    for convention, factors in ours.items():
        torch.testing.assert_close(factors.inputs[factors.sources[name]]._sum, inputs[convention])


def test_q_and_v_of_a_layer_share_their_input_factor(model: ChoiceModel, data: Encoded) -> None:
    factors = summed(model, [data.batch([0])], data, "expand")
    a = [n for n in model.params if "lora_A" in n]
    assert len({factors.sources[n] for n in a}) == len(a) // 2
    for q in (n for n in a if "q_proj" in n):
        assert factors.sources[q] == factors.sources[q.replace("q_proj", "v_proj")]
    assert len(factors.inputs) == len(a) // 2 + len(a)


def test_a_low_rank_factor_is_the_best_of_its_rank() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(60, 30, generator=generator, dtype=torch.float64) * torch.logspace(0, -4, 30)
    exact = Factor(30, 0)
    exact.add(rows)
    vectors, values = exact.decompose()
    low = Factor(30, 6)
    for part in rows.split(7):
        low.add(part)
    basis, kept = low.decompose()
    assert basis.shape == (30, 6) and torch.allclose(basis.T @ basis, torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(kept, values.flip(0)[:6], rtol=0.02, atol=0)
    assert ((vectors.flip(1)[:, :3] * basis[:, :3]).sum(0).abs() > 0.999).all()


@pytest.mark.parametrize("rank", [0, 5])
def test_draws_have_the_covariance_that_is_stated(model: ChoiceModel, data: Encoded, rank: int) -> None:
    """The root that draws use, applied to every unit matrix, multiplied with itself, inverts the precision."""
    factors = summed(model, [data.batch([0, 1, 2])], data, "expand", rank)
    posterior = gaussian(model, factors, 0.7)
    blocks = []
    for name, (out, width) in factors.shapes.items():
        units = torch.eye(out * width, dtype=torch.float64).view(-1, out, width)
        columns = posterior._root(name, units).flatten(1)
        blocks.append(columns.T @ columns)
    identity = torch.block_diag(*blocks) @ dense(factors, 0.7)
    torch.testing.assert_close(identity, torch.eye(len(identity), dtype=torch.float64), atol=1e-7, rtol=0)
