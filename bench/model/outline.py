"""Checks on a base that need no weights: configuration, tokenizer and layer names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.model.adapters import choose_targets, linear_layers
from bench.model.answers import answer_tokens, check_rows
from bench.model.base import load_tokenizer, output_layer, read_config
from bench.model.formats import Source
from bench.model.identity import opened
from bench.model.remarks import collected, refuse_lacking
from bench.specs import ModelSpec


def check_outline(spec: ModelSpec, path: Path | None, answers: Iterable[tuple[str, ...]]) -> None:
    """Refuse what can be refused in a second: a base that cannot be used, answers that it lacks tokens for, and LoRA on
    layers that it does not have. What needs the weights is checked when they are loaded.

    Args:
        spec: the base and its adapters.
        path: folder or file of a local model, or None.
        answers: the answers of each task.

    Raises:
        ModelNotUsable, ValueError: the message names the fix.
    """
    with opened(spec, path, verify=False) as source:
        config = read_config(spec, source)
        tokenizer = load_tokenizer(spec, source)
    tokens = {words: answer_tokens(tokenizer, words, source.name, spec.prompt) for words in answers}
    if (built := _without_weights(config)) is not None:
        model, layers = built
        rows = len(output_layer(model, source.name).weight)
        for words, ids in tokens.items():
            check_rows(ids, words, rows, source.name)
        choose_targets(spec.lora, source.name, layers, layers)
        check_stored(source, model)


def check_stored(source: Source, model: nn.Module) -> None:
    """Refuse files that lack weights of the model, or have them in other shapes.

    Where they hold names that the model does not have, transformers may rename what it reads: then loading tells.

    Raises:
        ModelNotUsable: the first such weight, by name.
    """
    weights = dict(model.named_parameters(remove_duplicate=False))
    if not source.shapes or not source.shapes.keys() <= {*weights, *dict(model.named_buffers())}:
        return
    stored = {id(weight) for name, weight in weights.items() if source.shapes.get(name) == tuple(weight.shape)}
    refuse_lacking(source, {name for name, weight in weights.items() if id(weight) not in stored})  # tied ones are one


def _without_weights(config: Any) -> tuple[nn.Module, list[str]] | None:
    """The base without its weights, and its linear layers; None for the few kinds that cannot be built so."""
    from transformers import AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM
    try:
        with torch.device("meta"), collected():
            model: nn.Module = loader.from_config(config, trust_remote_code=False)
            return model, list(linear_layers(model))
    except Exception:  # of any kind: loading will say what it is, if it is a fault at all
        return None
