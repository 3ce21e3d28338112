"""Adapter values as a PEFT adapter, for use without this suite: ``PeftModel.from_pretrained(base, folder)``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.model.adapters import HEAD, MAGNITUDE, VARIANTS
from bench.model.answers import answer_tokens, closing_tokens
from bench.model.base import explained, load_base, load_tokenizer
from bench.model.formats import EMBEDDED, Source
from bench.model.identity import MEMORY, check_place, opened
from bench.model.memory import check_same
from bench.model.prompts import PLAIN, frame
from bench.model.remarks import collected
from bench.specs import ModelSpec


def base_place(spec: ModelSpec, path: Path | None) -> Path | str:
    """The source of the base: a folder, or a name on the hub. ``path``: the folder of a local model.

    Raises:
        ValueError: the base is a local folder, and ``path`` is None; or it is a base of the hub, and ``path`` another.
    """
    check_place(spec, path)
    if spec.id == "embedded":
        return EMBEDDED
    if path is None and spec.id.startswith("local:"):
        raise ValueError(f"The base is a local folder ({spec.id}): name it with --model DIR.")
    return path or spec.id


def check_base(spec: ModelSpec, path: Path | None) -> None:
    """Refuse files in place of a base that was given in memory, unless they hold the same: they are read for it.

    Raises:
        ModelNotUsable: they do not, or none are given.
    """
    if spec.id.startswith(MEMORY):
        with opened(spec, path) as source:
            check_same(spec, load_base(spec, source, torch.device("cpu")))


def write_adapter(
    folder: Path, params: Mapping[str, Tensor], spec: ModelSpec, place: Path | str, answers: tuple[str, ...]
) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` into ``folder``, which must exist.

    An adapted answer head, rows B (C, r), becomes LoRA on the whole output layer, B (V, r), with zero rows for all
    tokens but the answers: their logits are the same, and all others those of the base.

    Args:
        params: adapter values by the names of :attr:`bench.model.choice_model.ChoiceModel.params`.
        place: what the adapter names as its base (:func:`base_place`).
        answers: the answers whose rows an adapted head holds.
    """
    from safetensors.torch import save_file

    lora = spec.lora
    head, rows, ids = "", 0, tuple[int, ...]()
    if HEAD in lora.targets:
        with opened(spec, place if isinstance(place, Path) else None) as source:
            head, rows = _output_layer(spec, source)
            ids = answer_tokens(load_tokenizer(spec, source), answers, source.name, spec.prompt)
    tensors = {}
    for name, value in params.items():
        layer = name.partition(".lora_")[0]
        plain = value.detach().float().cpu()
        if layer == head and ".lora_A." not in name:
            if lora.variant == "dora":
                raise ValueError("DoRA on the answer head cannot be exported: PEFT would normalise all rows of it.")
            plain = _spread(plain, ids, rows)
        # PEFT's files hold DoRA's magnitudes as plain tensors
        short = name.removesuffix(".weight") if MAGNITUDE in name else name
        tensors[f"base_model.model.{short}"] = plain.contiguous().clone()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(place),
        "revision": spec.revision if isinstance(place, str) else None,
        "inference_mode": True,
        "r": lora.r,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": sorted({name.partition(".lora_")[0] for name in params}),
        "bias": "none",
        **VARIANTS[lora.variant],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")


def _spread(rows: Tensor, ids: tuple[int, ...], size: int) -> Tensor:
    """(size, r): ``rows`` (C, r) at the places ``ids``, and zeros elsewhere."""
    whole = torch.zeros(size, *rows.shape[1:])
    whole[list(ids)] = rows
    return whole


def _output_layer(spec: ModelSpec, source: Source) -> tuple[str, int]:
    """Name of the base's output layer and its number of rows; no weights are read."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with collected(), explained(source.name, spec), torch.device("meta"):
        config = AutoConfig.from_pretrained(source.place, trust_remote_code=False, **source.options)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    head = model.get_output_embeddings()
    name = next(name for name, module in model.named_modules() if module is head)
    return name, len(head.weight)


def read_out(spec: ModelSpec, path: Path | None, answers: tuple[str, ...]) -> dict[str, Any]:
    """What a prediction takes besides the weights, as plain data.

    ``answers``: the token of each answer, whose logits at the end of a prompt make up the prediction;
    ``closing_tokens``: the number of tokens, such as an EOS, that the tokenizer adds there and prompts lack;
    ``frame``: what a chat has before and after a prompt, None where the prompt is plain;
    ``strips``: whether the chat's template strips the prompt.
    """
    with opened(spec, path) as source:
        tokenizer = load_tokenizer(spec, source)
        ids = answer_tokens(tokenizer, answers, source.name, spec.prompt)
        plain = spec.prompt == PLAIN
        around = None if plain else frame(tokenizer, source.name)
        return {
            "answers": dict(zip(answers, ids, strict=True)),
            "closing_tokens": closing_tokens(tokenizer) if plain else 0,
            "frame": around and [around.before, around.after],
            "strips": around is not None and around.strips,
        }
