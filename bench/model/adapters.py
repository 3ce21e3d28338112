"""The trainable adapters: which layers they adapt, and where each of their parameters lives. The only user of peft."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

from torch import nn

from bench.errors import ModelNotUsable, near_miss
from bench.specs import ModelSpec

NAME = "default"  # PEFT's name of the one adapter that we add


class Adapter(NamedTuple):
    """Where an adapter parameter lives: the linear map whose weight it is, and the layer of the base that it adapts.

    ``first``: the map reads the layer's input (A does; B reads the output of A).
    """

    linear: nn.Module
    host: nn.Module
    first: bool


def add_lora(base: Any, spec: ModelSpec) -> Any:
    """The base with LoRA on ``spec.lora.targets``, as a PEFT model; adapters in float32 whatever the base is in.

    Raises:
        ModelNotUsable: the base has no linear layer of such a name.
    """
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    head = base.get_output_embeddings()
    layers = [n for n, m in base.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not head]
    for target in spec.lora.targets:
        if not any(f".{layer}".endswith(f".{target}") for layer in layers):
            known = {layer.rsplit(".", 1)[-1] for layer in layers}
            raise ModelNotUsable(
                f"{spec.id} has no layer '{target}' for LoRA (the output layer takes none).{near_miss(target, known)} "
                f"Set it with --set lora.targets=NAME,NAME."
            )
    config = LoraConfig(
        r=spec.lora.r,
        lora_alpha=spec.lora.alpha,
        lora_dropout=spec.lora.dropout,
        target_modules=list(spec.lora.targets),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT remarks on fan_in_fan_out for GPT-2's Conv1D, and sets it right
        model = get_peft_model(base, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # float32 adapters over any base (PROTOCOL: code)
    return model


def trainable(module: nn.Module) -> dict[str, str]:
    """Freeze all but the adapters: short name -> full name in the PEFT model, in the model's order."""
    names = {}
    for full, parameter in module.named_parameters():
        parameter.requires_grad_(f".{NAME}" in full and "lora_" in full)
        if parameter.requires_grad:
            names[full.removeprefix("base_model.model.").replace(f".{NAME}", "")] = full
    return names


def located(module: nn.Module, names: dict[str, str]) -> dict[str, Adapter]:
    """The linear map and the adapted layer of every adapter parameter."""
    find = module.get_submodule
    return {
        name: Adapter(find(full.removesuffix(".weight")), find(full[: full.index(".lora_")]), ".lora_A." in full)
        for name, full in names.items()
    }


def dropouts(module: nn.Module) -> list[nn.Dropout]:
    """The dropout layers of the adapters."""
    return [m for name, m in module.named_modules() if "lora_dropout" in name and isinstance(m, nn.Dropout)]
