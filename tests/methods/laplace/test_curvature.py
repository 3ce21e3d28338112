"""Jacobians and the diagonal of the GGN, against torch.func."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from curvature_oracle import CPU, PROMPTS, exact_ggn, exact_jacobians, toy_batch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer

from bench.data.batches import Batch, Encoded
from bench.model.adapters import Adapter
from bench.model.choice_model import ChoiceModel, load_model
from bench.model.formats import EMBEDDED
from bench.specs import LoraSpec, ModelSpec
from bench.task import Example
from methods.laplace.curvature import Tape, diagonal, jacobians, roots


def test_jacobians_of_a_padded_batch_are_exact(model: ChoiceModel, data: Encoded) -> None:
    batch = data.batch([0, 1, 2])
    found, logits = jacobians(model, batch, list(model.params))
    torch.testing.assert_close(logits, model.logits(batch).detach())
    ours = torch.cat([jacobian.flatten(2) for jacobian in found.values()], -1)
    torch.testing.assert_close(ours, exact_jacobians(model, batch), rtol=1e-6, atol=1e-12)


def test_roots_multiply_to_the_hessian_of_the_cross_entropy() -> None:
    logits = torch.tensor([[0.0, 1.0, -2.0], [30.0, 0.0, 0.0], [-50.0, 0.0, 60.0]], dtype=torch.float64)
    p = logits.softmax(-1)
    hessian = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    r = roots(logits)
    assert r.shape == (2, 3, 3)
    torch.testing.assert_close(torch.einsum("kbc,kbd->bcd", r, r), hessian, atol=1e-15, rtol=1e-12)


@pytest.mark.parametrize("sizes", [[3], [1, 2], [1, 1, 1]])
def test_the_diagonal_is_that_of_the_exact_ggn(model: ChoiceModel, data: Encoded, sizes: list[int]) -> None:
    names, start = list(model.params), 0
    total = torch.zeros(sum(p.numel() for p in model.params.values()), dtype=torch.float64)
    for size in sizes:
        found = diagonal(Tape(model, data.batch(range(start, start + size)), names))
        total += torch.cat([found[name].flatten() for name in names])
        start += size
    torch.testing.assert_close(total, exact_ggn(model, data).diagonal(), rtol=1e-6, atol=1e-14)


def test_a_map_that_runs_twice_is_refused() -> None:
    linear = nn.Linear(3, 3, bias=False)

    class Twice:
        adapters = {"w": Adapter(linear, linear, True)}

        def logits(self, batch: Batch) -> Tensor:
            return linear(linear(torch.ones(2, 4, 3)))[:, -1]

    with pytest.raises(ValueError, match="ran 2 times"):
        Tape(Twice(), toy_batch(2, 4), ["w"])


@pytest.mark.parametrize(
    ("kind", "options", "targets"),
    [
        ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 512}, ("c_attn", "c_proj", "c_fc")),
        (
            "gpt_neox",
            {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2},
            ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
        ),
        (
            "opt",
            {"hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
            | {"word_embed_proj_dim": 8, "max_position_embeddings": 512},
            ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "project_in"),
        ),
    ],
)
def test_jacobians_and_diagonal_are_exact_on_other_architectures(
    kind: str, options: dict[str, Any], targets: tuple[str, ...], tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=1, **options)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    made = load_model(ModelSpec(id="tiny", lora=LoraSpec(r=2, targets=targets)), tmp_path, CPU)
    made._module.double()
    made.prepare(("A", "B", "C"), seed=3)
    with torch.no_grad():
        for value in made.params.values():
            value.add_(0.1 * torch.randn(value.shape, dtype=torch.float64))
    data = made.encode([Example(text, label % 3) for label, text in enumerate(PROMPTS)], 64)
    batch, names = data.batch([0, 1, 2]), list(made.params)
    found, _ = jacobians(made, batch, names)
    ours = torch.cat([found[name].flatten(2) for name in names], -1)
    torch.testing.assert_close(ours, exact_jacobians(made, batch), rtol=1e-8, atol=1e-14)
    assert all(jacobian.abs().max() > 0 for jacobian in found.values())
    diag = diagonal(Tape(made, batch, names))
    exact = exact_ggn(made, data).diagonal()
    torch.testing.assert_close(torch.cat([diag[name].flatten() for name in names]), exact, rtol=1e-8, atol=1e-16)
