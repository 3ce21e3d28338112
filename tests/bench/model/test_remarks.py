"""What libraries report and what files ask for: refused, or told by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import CPU, FAMILIES, altered, byte_level, lora, saved
from torch import Tensor

from bench.errors import ModelNotUsable
from bench.model.choice_model import load_model

Weights = dict[str, Tensor]


def rewritten(folder: Path, change: Callable[[Weights], object]) -> Path:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def biases(weights: Weights) -> None:
    for layer in (0, 1):
        for part in "qkv":
            weights[f"model.layers.{layer}.self_attn.{part}_proj.bias"] = torch.ones(8)


def test_weights_that_the_model_does_not_take_are_named(llama: Path, tmp_path: Path) -> None:
    (warning,) = load_model(lora(), rewritten(altered(llama, tmp_path / "a"), biases), CPU).warnings
    assert "hold 6 weights that the model, as configured, does not use" in warning
    assert all(f"model.layers.{n}.self_attn.{p}_proj.bias" in warning for n in (0, 1) for p in "qkv")
    (warning,) = load_model(lora(), altered(llama, tmp_path / "b", num_hidden_layers=1), CPU).warnings
    assert "hold 9 weights" in warning and "model.layers.1." in warning and "and 3 more" in warning
    (warning,) = load_model(lora(), altered(llama, tmp_path / "c", tie_word_embeddings=True), CPU).warnings
    assert "both are present in the checkpoints with different values" in warning


def test_a_whole_base_has_no_warnings(llama: Path, gpt2: Path) -> None:
    assert load_model(lora(), llama, CPU).warnings == []
    assert load_model(lora(["c_attn"]), gpt2, CPU).warnings == []


@pytest.mark.parametrize("name", ["qwen2", "gemma2", "opt", "bloom", "mamba", "falcon_h1"])
def test_other_families_have_no_warnings_either(name: str) -> None:
    options, targets = FAMILIES[name]
    assert load_model(lora(targets), saved(name, options), CPU).warnings == []


def tokenizer_settings(folder: Path, **settings: Any) -> Path:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


def test_a_bos_that_is_asked_for_and_missing_is_told(llama: Path, tmp_path: Path) -> None:
    folder = altered(llama, tmp_path / "m")
    byte_level("").save_pretrained(folder)
    assert load_model(lora(), folder, CPU).warnings == []
    tokenizer_settings(folder, add_bos_token=True, bos_token="<|endoftext|>")
    (warning,) = load_model(lora(), folder, CPU).warnings
    assert "ask for a BOS ('<|endoftext|>') before every text, but its tokenizer puts none there" in warning
    asked = tokenizer_settings(altered(llama, tmp_path / "has"), add_bos_token=True)
    assert load_model(lora(), asked, CPU).warnings == []


@pytest.mark.parametrize("name", ["LlamaTokenizer", "NoSuchTokenizer"])
def test_another_tokenizer_class_than_the_files_name_is_told(llama: Path, name: str, tmp_path: Path) -> None:
    folder = tokenizer_settings(altered(llama, tmp_path / "m"), tokenizer_class=name)
    (warning,) = load_model(lora(), folder, CPU).warnings
    assert f"names the tokenizer class {name}, and transformers loads TokenizersBackend instead" in warning
    fast = tokenizer_settings(altered(llama, tmp_path / "fast"), tokenizer_class="PreTrainedTokenizerFast")
    assert load_model(lora(), fast, CPU).warnings == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_weights_that_are_not_finite_are_named(llama: Path, name: str, value: float, tmp_path: Path) -> None:
    folder = rewritten(altered(llama, tmp_path / "m"), lambda weights: weights[name].view(-1)[3].fill_(value))
    with pytest.raises(ModelNotUsable, match=f"The weight {name} of tiny has values that are not finite"):
        load_model(lora(), folder, CPU)


def test_weights_that_are_zero_are_named(llama: Path, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    (warning,) = load_model(
        lora(), rewritten(altered(llama, tmp_path / "one"), lambda weights: weights[name].zero_()), CPU
    ).warnings
    assert f"1 weight matrices of the base are zero throughout: {name}" in warning
    folder = rewritten(altered(llama, tmp_path / "all"), lambda weights: [value.zero_() for value in weights.values()])
    with pytest.raises(ModelNotUsable, match="tiny answers every prompt alike: its weights are zero"):
        load_model(lora(), folder, CPU)


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer"])
def test_a_configuration_of_a_billion_layers_is_refused_at_once(
    llama: Path, gpt2: Path, key: str, tmp_path: Path
) -> None:
    folder = altered(llama if key == "num_hidden_layers" else gpt2, tmp_path / "m", **{key: 10**9})
    with pytest.raises(ModelNotUsable, match=f"configuration of tiny has {key} = 1000000000, and its files hold"):
        load_model(lora(), folder, CPU)
