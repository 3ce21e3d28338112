"""Probes at loading, and prompts that a model cannot read."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import CPU, FAMILIES, LETTERS, LLAMA, NEOX, PROMPTS, TRUTHS, build, byte_level, examples, lora, save, saved
from torch import nn

from bench.data.batches import Encoded
from bench.errors import ModelNotUsable
from bench.model.adapters import Adapter
from bench.model.checks import PROBE, check_maps, steady_length
from bench.model.choice_model import load_model
from bench.specs import LoraSpec, ModelSpec

REFUSED: dict[str, dict[str, Any]] = {
    "bert": NEOX,  # looks ahead
    "roberta": NEOX | {"is_decoder": True, "pad_token_id": 1},  # counts positions from the padding token's id
    "rwkv": {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32},  # no mask
    "recurrent_gemma": LLAMA | {"num_hidden_layers": 3},  # the recurrence runs over the pads
}


PRECISIONS = [
    ("none", "float32"),
    ("none", "bfloat16"),
    ("none", "float16"),
    ("int8", "float32"),
    ("nf4", "float32"),
    ("nf4", "bfloat16"),
]


@pytest.mark.parametrize(("quantization", "dtype"), PRECISIONS)
@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_padding_would_change_is_refused_in_every_precision(
    name: str, quantization: str, dtype: str
) -> None:
    folder = saved(name, REFUSED[name])
    spec = dataclasses.replace(lora(), quantization=quantization, dtype=dtype)
    with pytest.raises(ModelNotUsable, match="tiny does not answer a padded prompt as it answers the prompt alone"):
        load_model(spec, folder, CPU)


# Neither quantises: a Linear that is not one, and a product that bitsandbytes lacks
ACCEPTED = ("llama", "mistral", "mixtral", "qwen2", "gemma2", "falcon_h1", "gpt2", "opt", "bloom", "falcon", "mamba")
UNQUANTISED = ("falcon", "mamba")


@pytest.mark.parametrize(("quantization", "dtype"), PRECISIONS[1:])
@pytest.mark.parametrize("name", ACCEPTED)
def test_a_model_that_is_right_in_float32_is_accepted_in_every_precision(
    name: str, quantization: str, dtype: str
) -> None:
    """Measured on other prompts than the probe: what padding changes is what rounding changes."""
    if quantization != "none" and name in UNQUANTISED:
        pytest.skip(f"bitsandbytes cannot quantise {name}")
    options, targets = FAMILIES[name]
    folder = saved(name, options)
    model = load_model(dataclasses.replace(lora(targets), quantization=quantization, dtype=dtype), folder, CPU)
    model.prepare(LETTERS[:4], seed=1)
    prompts = ("Name one. Answer:", PROMPTS[3], f"{PROMPTS[1]} " * 3 + "Answer:")
    encoded = model.encode(examples(prompts), 200)
    with torch.no_grad():
        padded = model.logits(encoded.batch([0, 1, 2]))
        alone = torch.cat([model._module(input_ids=torch.tensor([t])).logits[:, -1].float() for t in encoded.tokens])
    rounding = {"float32": 2.0**-23, "bfloat16": 2.0**-8, "float16": 2.0**-11}[dtype]
    bound = 40 * max(rounding, 1 / 254 if quantization == "int8" else 0)  # rounding adds up over layers
    assert (padded - alone).abs().max() < bound * alone.std()


def overflowing(model: Any) -> None:
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.mul_(2e4)  # activations beyond 65504, weights below


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_overflow_of_the_base_is_called_that(dtype: str, tmp_path: Path) -> None:
    base = build("llama", LLAMA)
    with torch.no_grad():
        overflowing(base)
    folder, spec = save(tmp_path / "m", base, byte_level("<s>")), dataclasses.replace(lora(), dtype=dtype)
    if dtype == "bfloat16":
        load_model(spec, folder, CPU)
        return
    said = "logits of tiny itself, before any training, are not finite in float16 .* use --dtype bfloat16 or float32"
    with pytest.raises(ModelNotUsable, match=said):
        load_model(spec, folder, CPU)


LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 2.0, "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4, "original_max_position_embeddings": 32}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}


@pytest.mark.parametrize("rope", [LONG, DYNAMIC], ids=["longrope", "dynamic"])
def test_a_prompt_that_would_turn_the_others_positions_is_refused(rope: dict[str, Any]) -> None:
    options = LLAMA | {"max_position_embeddings": 32, "rope_parameters": rope}
    model = load_model(lora(), saved("llama", options), CPU)
    said = r"tiny rotates positions, .* by the longest prompt of a batch beyond 32 tokens.*\(--set max_length=32\)"
    with pytest.raises(ValueError, match=said):
        model.encode(examples(["A " * 40]), 33)
    assert len(model.encode(examples(["A " * 40]), 32).tokens[0]) == 32


@pytest.mark.parametrize(
    ("settings", "length"),
    [
        ({"rope_parameters": LONG}, 32),
        ({"rope_parameters": DYNAMIC}, 64),
        ({"rope_parameters": {"full": LONG, "sliding": PLAIN}}, 32),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "original_max_position_embeddings": 48}, 48),
        ({"rope_parameters": PLAIN}, None),
        ({"rope_parameters": None}, None),
        ({}, None),
    ],
)
def test_the_length_up_to_which_rotations_are_steady_is_read_from_any_form(
    settings: dict[str, Any], length: int | None
) -> None:
    assert steady_length(SimpleNamespace(max_position_embeddings=64, **settings)) == length


CTRL = {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 64}


@pytest.mark.parametrize("name", ["gpt2", "opt", "gptj", "codegen", "mpt", "ctrl"])
def test_a_prompt_beyond_a_table_of_positions_is_refused(name: str) -> None:
    options, targets = FAMILIES.get(name, (CTRL, ("Wq", "Wv")))
    size = {"opt": "max_position_embeddings", "mpt": "max_seq_len"}.get(name, "n_positions")
    model = load_model(lora(targets), saved(name, options | {size: 40}), CPU)
    with pytest.raises(ValueError, match="tiny reads at most 40 tokens, and a prompt has 41: set max_length=40"):
        model.encode(examples(["A " * 80]), 41)
    model.prepare(TRUTHS, seed=1)
    assert model.logits(model.encode(examples(["A " * 80]), 40).batch([0])).isfinite().all()


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "falcon", "bloom"])
def test_positions_without_a_table_have_no_limit(name: str) -> None:
    options, targets = FAMILIES[name]
    model = load_model(lora(targets), saved(name, options), CPU)
    assert len(model.encode(examples(["A " * 400]), 320).tokens[0]) == 320


def test_a_tokenizer_of_another_model_is_refused_before_the_model_reads_anything() -> None:
    folder = saved("llama", LLAMA | {"vocab_size": 20})
    said = r"^The tokenizer of tiny has ids up to \d+, its embedding only 20 rows: use the model's own tokenizer\.$"
    with pytest.raises(ValueError, match=said):
        load_model(lora(), folder, CPU)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "bloom", "opt"])
def test_maps_of_ordinary_layers_run_once_with_a_row_per_token(name: str) -> None:
    options, targets = FAMILIES[name]
    folder = saved(name, options)
    model = load_model(lora((*targets, "head")), folder, CPU)
    model.prepare(TRUTHS, seed=1)
    model.check_maps()
    assert not any(a.linear._forward_hooks for a in model.adapters.values())


def test_maps_that_methods_cannot_read_are_refused() -> None:
    dora = load_model(ModelSpec(lora=LoraSpec(variant="dora")), None, CPU)
    dora.prepare(TRUTHS, seed=1)
    with pytest.raises(ValueError, match=r"lora.variant 'dora' has parameters that are not linear maps.*magnitude"):
        dora.check_maps()

    folder = saved("llama", LLAMA)
    model = load_model(lora(), folder, CPU)
    model.prepare(TRUTHS, seed=1)
    inner = model._base.model
    layers = list(inner.layers)
    inner.layers[1] = inner.layers[0]
    with pytest.raises(ValueError, match=r"layers\.0\.self_attn\.q_proj\.lora_A\.weight ran 2 times"):
        model.check_maps()
    inner.layers[1] = layers[1]


def test_a_map_that_sees_some_of_the_tokens_only_is_refused() -> None:
    routed = nn.Linear(4, 2)
    batch = Encoded(((1,) * 8, (1,) * 5), (PROBE, PROBE), 0, CPU, 0).batch([0, 1])
    for rows, fine in (((2, 8), True), ((16,), True), ((2, 1), False), ((7,), False)):
        run = partial(routed, torch.zeros(*rows, 4))
        if fine:
            check_maps(ModelSpec(), ["a"], {"a": Adapter(routed, routed, True)}, batch, run)
            continue
        with pytest.raises(ValueError, match=r"The adapter map a sees rows .* needs one row per token"):
            check_maps(ModelSpec(), ["a"], {"a": Adapter(routed, routed, True)}, batch, run)
    check_maps(
        ModelSpec(),
        ["a"],
        {"a": Adapter(routed, routed, True, at_end=True)},
        batch,
        partial(routed, torch.zeros(2, 1, 4)),
    )
