"""For tools/gpu.py: randomly initialised bases of a given shape, made on the device itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from bench.data.batches import Encoded
from bench.model.choice_model import ChoiceModel, load_model
from bench.model.formats import EMBEDDED
from bench.specs import LoraSpec, ModelSpec
from bench.task import Example

LLAMA_7B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096,
    "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
    "tie_word_embeddings": False,
}  # fmt: skip
QWEN_05B = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896,
    "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
    "tie_word_embeddings": True,
}  # fmt: skip
SHAPES = {"llama_7b": LLAMA_7B, "qwen_05b": QWEN_05B}
TINY = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 1536}  # fmt: skip
ANSWERS = ("A", "B", "C", "D")


def random_model(
    shape: str, quantization: str, device: torch.device, folder: Path, tiny: bool = False, dropout: float = 0.1
) -> ChoiceModel:
    """A ChoiceModel of that shape in bfloat16 (linear layers in int8 or nf4), with LoRA r 8 on q and v and B != 0."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in EMBEDDED.glob("*token*"):
        shutil.copy(file, folder)
    (folder / "config.json").write_text(json.dumps({**SHAPES[shape], **(TINY if tiny else {}), "dtype": "bfloat16"}))
    spec = ModelSpec(
        id=f"random:{shape}", dtype="bfloat16", quantization=quantization, lora=LoraSpec(dropout=dropout)
    )  # its loading is replaced, the rest of the suite's model is as always

    def made(*_: Any, **options: Any) -> tuple[Any, dict[str, list[str]]]:
        report = {"missing_keys": [], "mismatched_keys": [], "unexpected_keys": [], "error_msgs": []}
        return _base(folder, quantization, device), report

    with mock.patch("transformers.AutoModelForCausalLM.from_pretrained", made):
        model = load_model(spec, folder, device)
    model.prepare(ANSWERS, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.params.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(device) * 1e-3)
    return model


def _base(folder: Path, quantization: str, device: torch.device) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    small = config.initializer_range / (2 * config.num_hidden_layers) ** 0.5
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    head = base.get_output_embeddings()
    quantized = [] if quantization == "none" else _swap(base, head, quantization)
    templates: dict[tuple[int, ...], Tensor] = {}
    generator = torch.Generator(device).manual_seed(1)
    for name, parameter in list(base.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        module = base.get_submodule(owner)
        if module in quantized and leaf == "weight":
            key = tuple(parameter.shape)
            if key not in templates:
                templates[key] = torch.randn(key, generator=torch.Generator().manual_seed(1)).mul_(0.02)
            module.weight = _packed(templates[key], quantization).to(device)
            continue
        value = torch.empty(parameter.shape, dtype=torch.bfloat16, device=device)
        if leaf == "bias":
            value.zero_()
        elif value.ndim == 1:
            value.fill_(1)
        else:
            last = name.endswith(("o_proj.weight", "down_proj.weight"))
            value.normal_(0, small if last else config.initializer_range, generator=generator)
        setattr(module, leaf, nn.Parameter(value, requires_grad=False))
    rotary = type(base.model.rotary_emb)(config)  # its buffers are computed, not stored
    base.model.rotary_emb = rotary.to(device)
    base.tie_weights()
    if quantization != "none":
        base.is_quantized = True
        base.is_loaded_in_8bit, base.is_loaded_in_4bit = quantization == "int8", quantization == "nf4"
    return base.eval()


def _swap(base: nn.Module, head: nn.Module, quantization: str) -> list[nn.Module]:
    """Put bitsandbytes' layers in place of all linear ones but the output layer; their weights come later."""
    import bitsandbytes as bnb

    swapped: list[nn.Module] = []
    for name, module in list(base.named_modules()):
        if not isinstance(module, nn.Linear) or module is head:
            continue
        size, bias = (module.in_features, module.out_features), module.bias is not None
        with torch.device("meta"):
            new = (
                bnb.nn.Linear8bitLt(*size, bias=bias, has_fp16_weights=False, threshold=6.0)
                if quantization == "int8"
                else bnb.nn.Linear4bit(*size, bias=bias, compute_dtype=torch.bfloat16, quant_type="nf4")
            )
        owner, _, leaf = name.rpartition(".")
        setattr(base.get_submodule(owner), leaf, new)
        swapped.append(new)
    return swapped


def _packed(weight: Tensor, quantization: str) -> Any:
    """A parameter that bitsandbytes quantises when it is moved to a device."""
    import bitsandbytes as bnb

    if quantization == "int8":
        return bnb.nn.Int8Params(weight.to(torch.float16), requires_grad=False, has_fp16_weights=False)
    return bnb.nn.Params4bit(weight.to(torch.bfloat16), requires_grad=False, quant_type="nf4")


def prompts(lengths: Sequence[int], vocabulary: int, device: torch.device) -> Encoded:
    """Random prompts of those lengths, with random labels."""
    generator = torch.Generator().manual_seed(3)
    tokens = tuple(tuple(torch.randint(10, vocabulary, (n,), generator=generator).tolist()) for n in lengths)
    labels = torch.randint(0, len(ANSWERS), (len(lengths),), generator=generator).tolist()
    examples = tuple(Example("", label, id=str(number)) for number, label in enumerate(labels))
    return Encoded(tokens, examples, 0, device, 0)
