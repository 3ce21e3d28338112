"""A small model in float64 and three prompts of unlike length, shared by the tests of this folder."""

from __future__ import annotations

import functools

import pytest
import torch
from curvature_oracle import CPU, PROMPTS, rms_norm

from bench.data.batches import Encoded
from bench.model.choice_model import ChoiceModel, load_model
from bench.specs import LoraSpec, ModelSpec
from bench.task import Example


@pytest.fixture(scope="module")
def model() -> ChoiceModel:
    """The embedded base with small adapters, in float64, its adapters away from B = 0."""
    made = load_model(ModelSpec(lora=LoraSpec(r=2)), None, CPU)
    made._module.double()
    for module in made._module.modules():
        if hasattr(module, "variance_epsilon"):  # transformers' norms compute in float32 whatever they are given
            module.forward = functools.partial(rms_norm, module)
    made.prepare(("A", "B", "C"), seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in made.params.values():
            value.add_(0.1 * torch.randn(value.shape, generator=generator, dtype=torch.float64))
    return made


@pytest.fixture(scope="module")
def data(model: ChoiceModel) -> Encoded:
    return model.encode([Example(text, label % 3) for label, text in enumerate(PROMPTS)], 64)
