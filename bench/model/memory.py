"""A base that the caller has in memory: a causal language model of transformers and its tokenizer."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from bench.errors import ModelNotUsable
from bench.model.base import Base, accepted, output_layer
from bench.model.formats import Source
from bench.model.identity import DTYPES, MEMORY
from bench.model.prompts import CHAT
from bench.model.remarks import check_tokenizer, check_weights
from bench.specs import LoraSpec, ModelSpec

NAME = "the model in memory"


def base_in_memory(model: Any, tokenizer: Any, lora: LoraSpec, prompt: str, known: str = "") -> tuple[ModelSpec, Base]:
    """The model as a frozen base, and its spec; its identity is a hash of weights, configuration and tokenizer.

    It is ``known`` where the model is the same as one of that identity (:func:`is_same`).

    Raises:
        ModelNotUsable: it has adapters, is quantised, is spread over devices, or is no causal language model.
    """
    if not callable(getattr(model, "get_output_embeddings", None)):
        raise ModelNotUsable(f"{NAME} is a {type(model).__name__}: pass a causal language model of transformers.")
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
    spec = ModelSpec(
        id=known if known and is_same(known, model, tokenizer, prompt) else MEMORY + _hash(model, tokenizer, prompt),
        dtype=dtype,
        lora=lora,
        prompt=prompt,
    )
    head = output_layer(model, NAME)
    model.eval().requires_grad_(False)
    return spec, Base(NAME, model, tokenizer, head, accepted(model, NAME), tuple(warnings))


def is_same(identity: str, model: Any, tokenizer: Any, prompt: str) -> bool:
    """Whether a model has the ``identity`` of one that was in memory: also one that was saved since, or loaded again.

    A model that was made from its configuration does not state its architecture there before it is saved.
    """
    stated = model.config.architectures
    try:
        for architectures in (stated, None, [type(model).__name__]):
            model.config.architectures = architectures
            if identity == MEMORY + _hash(model, tokenizer, prompt):
                return True
        return False
    finally:
        model.config.architectures = stated


def check_same(spec: ModelSpec, base: Base) -> None:
    """Refuse a loaded base in place of one that was given in memory, unless it is the same.

    Raises:
        ModelNotUsable: it is another.
    """
    if spec.id.startswith(MEMORY) and not is_same(spec.id, base.model, base.tokenizer, spec.prompt):
        raise ModelNotUsable(
            f"The result was made on {spec.id}, a model that was given in memory, and this one has other weights, "
            "another configuration or another tokenizer: give the model itself, or the folder that it was saved to."
        )


def _hash(model: Any, tokenizer: Any, prompt: str) -> str:
    """The first 16 hex digits of a hash over all that the model's answers to prompts of a form depend on."""
    whole = hashlib.sha256()
    for name, tensor in sorted({**dict(model.named_parameters()), **dict(model.named_buffers())}.items()):
        plain = tensor.detach().cpu().contiguous()
        whole.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        whole.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_CONTENT}
    whole.update(json.dumps(config, sort_keys=True, default=str).encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    whole.update((backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab())).encode())
    if prompt == CHAT:
        whole.update(json.dumps(getattr(tokenizer, "chat_template", None), sort_keys=True, default=str).encode())
    return whole.hexdigest()[:16]


NOT_CONTENT = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
