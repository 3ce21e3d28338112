"""A base that the caller has in memory: a causal language model of transformers and its tokenizer."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from bench.errors import ModelNotUsable
from bench.model.base import Base, accepted, check_kind, output_layer
from bench.model.formats import Source
from bench.model.identity import DTYPES, MEMORY
from bench.model.prompts import CHAT
from bench.model.remarks import check_tokenizer, check_weights
from bench.specs import LoraSpec, ModelSpec

NAME = "the model in memory"


def base_in_memory(model: Any, tokenizer: Any, lora: LoraSpec, prompt: str, known: str = "") -> tuple[ModelSpec, Base]:
    """The model as a frozen base, and its spec; its identity is a hash of weights, configuration and tokenizer.

    It is ``known`` where the model had that identity before it was saved, or has it when it is loaded again.

    Raises:
        ModelNotUsable: it has adapters, is quantised, is spread over devices, or is no causal language model.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    if not callable(getattr(model, "get_output_embeddings", None)):
        raise ModelNotUsable(f"{NAME} is a {type(model).__name__}: pass a causal language model of transformers.")
    check_kind(NAME, model.config)
    if not callable(tokenizer):
        raise ModelNotUsable(f"{NAME} needs its tokenizer: pass tokenizer=AutoTokenizer.from_pretrained(...).")
    if any("lora_" in name for name, _ in model.named_parameters()):
        raise ModelNotUsable(
            f"{NAME} has adapters already: open it once with open_model() and pass the result to every fit, or merge "
            "the adapters into its weights."
        )
    kinds = {parameter.dtype for parameter in model.parameters()}
    if len(kinds) > 1 or not all(kind.is_floating_point for kind in kinds):
        raise ModelNotUsable(f"{NAME} has weights of several number formats, or quantised ones: give its name instead.")
    if len({parameter.device for parameter in model.parameters()}) > 1:
        raise ModelNotUsable(f"{NAME} is spread over several devices: put it on one.")
    (kind,) = kinds
    dtype = str(kind).partition(".")[2]
    if dtype not in DTYPES:
        raise ModelNotUsable(f"{NAME} is in {dtype}: convert it to {', '.join(DTYPES)}, such as by model.float().")
    source = Source(NAME, NAME)
    warnings = [*check_weights(source, model), *check_tokenizer(source, tokenizer, None)]
    identities = _identities(model, tokenizer, prompt)
    spec = ModelSpec(
        id=known if known in identities else identities[0],
        dtype=dtype,
        lora=lora,
        prompt=prompt,
    )
    head = output_layer(model, NAME)
    model.eval().requires_grad_(False)
    return spec, Base(NAME, model, tokenizer, head, accepted(model, NAME), tuple(warnings))


def check_same(spec: ModelSpec, base: Base) -> None:
    """Refuse a loaded base in place of one that was given in memory, unless it is the same.

    Raises:
        ModelNotUsable: it is another.
    """
    if spec.id.startswith(MEMORY) and spec.id not in _identities(base.model, base.tokenizer, spec.prompt):
        raise ModelNotUsable(
            f"The result was made on {spec.id}, a model that was given in memory, and this one has other weights, "
            "another configuration or another tokenizer: give the model itself, or the folder that it was saved to."
        )


def _identities(model: Any, tokenizer: Any, prompt: str) -> list[str]:
    """The identity of a model, and those that it had before it was saved, or has when it is loaded again.

    Each hashes all that the model's answers to prompts of a form depend on. A model that was made from its
    configuration does not state its architecture there before it is saved.
    """
    weights = hashlib.sha256()
    for name, tensor in sorted({**dict(model.named_parameters()), **dict(model.named_buffers())}.items()):
        plain = tensor.detach().cpu().contiguous()
        weights.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        weights.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_CONTENT}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    found = []
    for form in ({}, {"architectures": None}, {"architectures": [type(model).__name__]}):
        whole = weights.copy()
        whole.update(json.dumps({**config, **form}, sort_keys=True, default=str).encode())
        whole.update((backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab())).encode())
        if prompt == CHAT:
            template = getattr(tokenizer, "chat_template", None)
            whole.update(json.dumps(template, sort_keys=True, default=str).encode())
        found.append(MEMORY + whole.hexdigest()[:16])
    return found


NOT_CONTENT = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
