"""Checks on a base that need no weights: configuration, tokenizer and layer names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from bench.model.adapters import choose_targets, linear_layers
from bench.model.answers import answer_tokens
from bench.model.base import load_tokenizer, read_config
from bench.model.identity import opened
from bench.model.remarks import collected
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
    for words in answers:
        answer_tokens(tokenizer, words, source.name, spec.prompt)
    layers = _layers(config)
    if layers:
        choose_targets(spec.lora, source.name, layers, layers)


def _layers(config: Any) -> list[str]:
    """The names of the base's linear layers; none for the few kinds that cannot be built without weights."""
    from transformers import AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM
    try:
        with torch.device("meta"), collected():
            return list(linear_layers(loader.from_config(config, trust_remote_code=False)))
    except Exception:  # of any kind: loading will say what it is, if it is a fault at all
        return []
