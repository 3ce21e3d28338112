"""Curvature of adapters on the answer head, against torch.func and the GGN multiplied out."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from curvature_oracle import CPU, PROMPTS, dense, exact_ggn, exact_jacobians, rms_norm, summed
from torch import nn

from bench.data.batches import Encoded
from bench.model.choice_model import ChoiceModel, load_model
from bench.specs import LoraSpec, ModelSpec
from bench.task import Example
from methods.laplace.curvature import Tape, diagonal, jacobians


@pytest.fixture(scope="module", params=[True, False], ids=["last-logits", "all-logits"])
def headed(request: pytest.FixtureRequest) -> ChoiceModel:
    """Adapters on v_proj and the head in float64; with and without a base that computes the last logits only."""
    made = load_model(ModelSpec(lora=LoraSpec(r=2, targets=("v_proj", "head"))), None, CPU)
    if not request.param:
        made._loaded = dataclasses.replace(made._loaded, accepts=made._loaded.accepts - {"logits_to_keep"})
    made.prepare(("A", "B", "C"), seed=3)
    made._module.double()
    for module in made._module.modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = functools.partial(rms_norm, module)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in made.params.values():
            value.add_(0.1 * torch.randn(value.shape, generator=generator, dtype=torch.float64))
    return made


@pytest.fixture
def prompts(headed: ChoiceModel) -> Encoded:
    return headed.encode([Example(text, label % 3) for label, text in enumerate(PROMPTS)], 64)


def test_jacobians_and_diagonal_are_exact(headed: ChoiceModel, prompts: Encoded) -> None:
    batch, names = prompts.batch([0, 1, 2]), list(headed.params)
    assert any(name.startswith("lm_head") for name in names)
    found, _ = jacobians(headed, batch, names)
    ours = torch.cat([jacobian.flatten(2) for jacobian in found.values()], -1)
    torch.testing.assert_close(ours, exact_jacobians(headed, batch), rtol=1e-6, atol=1e-12)
    squares = torch.cat([part.flatten() for part in diagonal(Tape(headed, batch, names)).values()])
    torch.testing.assert_close(squares, exact_ggn(headed, prompts).diagonal(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("convention", ["expand", "reduce"])
def test_factors_count_the_last_token_of_each_example(headed: ChoiceModel, prompts: Encoded, convention: str) -> None:
    """Of one example, each head block of the factors is that of the GGN, whatever the prompt's length."""
    one = Encoded(prompts.tokens[1:2], prompts.examples[1:2], prompts.pad, CPU, 0)
    ours, exact = dense(summed(headed, [one.batch([0])], one, convention)), exact_ggn(headed, one)
    start = 0
    for name, parameter in headed.params.items():
        block = slice(start, start + parameter.numel())
        if name.startswith("lm_head"):
            torch.testing.assert_close(ours[block, block], exact[block, block], rtol=1e-6, atol=1e-10)
        start += parameter.numel()
    whole = dense(summed(headed, [prompts.batch([0, 1, 2])], prompts, convention))
    parts = dense(summed(headed, [prompts.batch([row]) for row in (2, 0, 1)], prompts, convention))
    torch.testing.assert_close(whole, parts, rtol=1e-7, atol=1e-10)
    assert isinstance(headed.adapters[name].linear, nn.Linear)
