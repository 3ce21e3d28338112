"""Probes at loading: refuse a model that would return wrong answers without an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from bench.data.batches import Batch, Encoded
from bench.errors import ModelNotUsable
from bench.model.adapters import Adapter
from bench.specs import ModelSpec
from bench.task import Example

PROBE = Example("Which of these words names a colour? A. green B. seven Answer:", 0)
PROBE_LENGTH = 64  # tokens at most


def steady_length(config: Any) -> int | None:
    """The longest prompt whose rotary positions do not depend on its length; None where there is no limit."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [kind for kind in rope.values() if isinstance(kind, Mapping)] or [rope]  # one, or one per layer type
    key, limits = "original_max_position_embeddings", []
    for kind in kinds:
        if kind.get("rope_type", kind.get("type")) in ("dynamic", "longrope"):
            limits.append(kind.get(key) or getattr(config, key, None) or config.max_position_embeddings)
    return min(limits, default=None)


def learned_places(base: Any, config: Any) -> int | None:
    """The number of positions in the base's position table; None where it computes them or has none."""
    known = getattr(config, "max_position_embeddings", None)
    if not isinstance(known, int):
        return None
    words = base.get_input_embeddings()
    tables = [m.num_embeddings - known for m in base.modules() if isinstance(m, nn.Embedding) and m is not words]
    fixed = [len(buffer) - known for name, buffer in base.named_buffers() if name.endswith("embed_positions")]
    return known if {0, 2} & set(tables) or 0 in fixed else None  # OPT's table has 2 rows more


def check_readable(
    spec: ModelSpec, tokens: Sequence[tuple[int, ...]], pad: int, rows: int, places: int | None, steady: int | None
) -> None:
    """Refuse prompts with token ids beyond the ``rows`` of the embedding, or longer than the model can read."""
    largest = max((max(ids, default=pad) for ids in tokens), default=pad)
    if max(largest, pad) >= rows:
        raise ValueError(
            f"The tokenizer of {spec.id} has ids up to {max(largest, pad)}, its embedding only {rows} rows: "
            "use the model's own tokenizer."
        )
    longest = max(map(len, tokens), default=0)
    if places is not None and longest > places:
        raise ValueError(
            f"{spec.id} reads at most {places} tokens, and a prompt has {longest}: set "
            f"max_length={places} (--set max_length={places})."
        )
    if steady is not None and longest > steady:
        raise ValueError(
            f"{spec.id} rotates positions by the longest prompt of a batch beyond {steady} tokens, so "
            f"answers would depend on it: set max_length={steady} (--set max_length={steady})."
        )


@torch.no_grad()
def check_padding(spec: ModelSpec, base: Any, inputs: Callable[[Batch], dict[str, Any]], probe: Encoded) -> None:
    """Refuse a base whose answer to a padded prompt differs from its answer at that place when it reads text alone.

    Such models ignore the mask, count positions from the pads or look ahead, without an error.
    """
    tokens, example = probe.tokens[0], probe.examples[0]
    places = (len(tokens) // 2, len(tokens))
    cut = Encoded(tuple(tokens[:n] for n in places), (example, example), tokens[0], probe.device, 0)
    padded = base(**inputs(cut.batch([0, 1]))).logits[:, -1].float()
    whole = base(input_ids=torch.tensor([tokens], device=probe.device)).logits[0].float()
    alone = whole[[n - 1 for n in places]]
    change = float((padded - alone).square().mean().sqrt() / alone.std())
    exact = spec.dtype == "float32" and spec.quantization == "none"
    if not change <= (1e-4 if exact else 0.1):
        raise ModelNotUsable(
            f"{spec.id} does not answer a padded prompt as it answers the prompt alone (its logits change by "
            f"{change:.1g} of their spread): it is not causal, ignores the attention mask or counts positions from "
            "the pads. Use another model."
        )


@torch.no_grad()
def layers_that_run(layers: Mapping[str, nn.Module], run: Callable[[], object]) -> set[str]:
    """The names of the layers that are called by ``run``: some models only read a layer's weight, some have towers
    that text never passes."""
    ran: set[str] = set()
    hooks = [layer.register_forward_hook(lambda *_, name=name: ran.add(name)) for name, layer in layers.items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return ran


@torch.no_grad()
def check_maps(
    spec: ModelSpec, names: Iterable[str], adapters: Mapping[str, Adapter], batch: Batch, run: Callable[[], object]
) -> None:
    """Refuse adapters that are not maps y = W x, each running once per forward pass with one row per token.

    ``names``: all adapter parameters. Methods that read or perturb what passes through the maps rely on it.
    """
    if strange := [name for name in names if name not in adapters]:
        raise ValueError(
            f"lora.variant '{spec.lora.variant}' has parameters that are not linear maps, such as {strange[0]}, and "
            "this method handles linear maps only: use lora.variant=lora or rslora, or another method."
        )
    seen: dict[str, list[tuple[int, ...]]] = {name: [] for name in adapters}

    def note(name: str) -> Callable[..., None]:
        return lambda module, args, output: seen[name].append(tuple(output.shape[:-1]))

    hooks = [adapter.linear.register_forward_hook(note(name)) for name, adapter in adapters.items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    b, t = batch.input_ids.shape
    for name, shapes in seen.items():
        if len(shapes) != 1:
            raise ValueError(
                f"The adapter map {name} of {spec.id} ran {len(shapes)} times in one forward pass, and this method "
                "needs exactly once. Choose other lora.targets."
            )
        if shapes[0] not in ((b, t), (b * t,)) and not (adapters[name].at_end and shapes[0] == (b, 1)):
            raise ValueError(
                f"The adapter map {name} of {spec.id} sees rows of shape {shapes[0]} for {b} prompts of {t} tokens, "
                "and this method needs one row per token. Choose other lora.targets."
            )
