"""Probes at loading: refuse a model that would return wrong answers without an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.data.batches import PAD_MULTIPLE, Batch, Encoded
from bench.errors import ModelNotUsable
from bench.model.adapters import Adapter
from bench.model.base import Base
from bench.model.forward.packed_attention import NAME as ATTENTION
from bench.model.quantization import QUANTIZATIONS
from bench.specs import ModelSpec
from bench.task import Example

PROBE = Example(
    "Select one of the choices that answers the following question: which of these words names a colour? "
    "Choices: A. green. B. seven. C. under. D. slowly. Answer:",
    0,
)
PROBE_LENGTH = 128  # tokens at most
TIMES_ROUNDING = 4.0  # largest effect of padding, in multiples of rounding's (good models: below 1.3, bad: above 7)
FLOOR = 1e-5  # of the spread of the logits: below it nothing is called a change
NOISE = {"float32": 2.0**-23, "bfloat16": 2.0**-8, "float16": 2.0**-11}  # of a number, about what rounding changes
NOISES = 3  # draws of rounding noise


def steady_length(config: Any) -> int | None:
    """The longest prompt that is read alike whatever the length of its row; None where there is no limit."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [kind for kind in rope.values() if isinstance(kind, Mapping)] or [rope]  # one, or one per layer type
    key, limits = "original_max_position_embeddings", []
    for kind in kinds:
        if kind.get("rope_type", kind.get("type")) in ("dynamic", "longrope"):
            limits.append(kind.get(key) or getattr(config, key, None) or config.max_position_embeddings)
    if scales_by_place(config):
        limits.append((int(config.floor_scale) - 1) // PAD_MULTIPLE * PAD_MULTIPLE)
    return min(limits, default=None)


def scales_by_place(config: Any) -> bool:
    """Whether a base scales queries by their place in the row, pads included, as Llama 4 does beyond a first scale."""
    return bool(getattr(config, "attn_temperature_tuning", False) and getattr(config, "floor_scale", None))


def learned_places(base: Any, config: Any) -> int | None:
    """The number of positions in the base's position table; None where it computes them or has none."""
    known = getattr(config, "max_position_embeddings", None)
    if not isinstance(known, int):
        limit = getattr(config, "max_seq_len", None)  # MPT: the length of its table of biases
        return limit if isinstance(limit, int) else None
    for module in base.modules():
        table = getattr(module, "pos_encoding", None)  # CTRL's
        if isinstance(table, Tensor) and len(table) == known:
            return known
    words = base.get_input_embeddings()
    tables = [m.num_embeddings - known for m in base.modules() if isinstance(m, nn.Embedding) and m is not words]
    fixed = [len(buffer) - known for name, buffer in base.named_buffers() if name.endswith("embed_positions")]
    return known if {0, 2} & set(tables) or 0 in fixed else None  # OPT's table has 2 rows more


def check_readable(
    name: str, tokens: Sequence[tuple[int, ...]], pad: int, rows: int, places: int | None, steady: int | None
) -> None:
    """Refuse prompts with token ids beyond the ``rows`` of the embedding, or longer than the model can read."""
    largest = max((max(ids, default=pad) for ids in tokens), default=pad)
    if max(largest, pad) >= rows:
        raise ValueError(
            f"The tokenizer of {name} has ids up to {max(largest, pad)}, its embedding only {rows} rows: "
            "use the model's own tokenizer."
        )
    if any(not ids for ids in tokens):
        raise ValueError(f"The tokenizer of {name} leaves nothing of a prompt: correct it, or use another model.")
    longest = max(map(len, tokens), default=0)
    if places is not None and longest > places:
        raise ValueError(
            f"{name} reads at most {places} tokens, and a prompt has {longest}: set "
            f"max_length={places} (--set max_length={places})."
        )
    if steady is not None and longest > steady:
        raise ValueError(
            f"{name} rotates positions, or scales queries, by the longest prompt of a batch beyond {steady} tokens, so "
            f"answers would depend on it: set max_length={steady} (--set max_length={steady})."
        )


@torch.no_grad()
def check_padding(spec: ModelSpec, base: Base, probe: Encoded) -> None:
    """Refuse a base that answers a prompt differently in a padded batch, or with text behind it, than alone.

    Such models ignore the mask, count positions from the pads or look ahead, without an error. Prompts of very unlike
    length share a batch. The largest change of any logit is compared with what the base's own rounding does to it: the
    largest change under noise of the size of rounding on its embeddings. So the verdict is the same in every precision.

    Raises:
        ModelNotUsable: padding changes more than rounding does, or the logits are not finite.
    """
    cut = _pieces(probe)
    whole = _read(base, probe, probe.tokens[0])  # the last of the pieces
    alone = torch.stack([*(_read(base, probe, prompt)[-1] for prompt in cut.tokens[:-1]), whole[-1]])
    check_finite(spec, base.name, alone)
    padded = base.model(**base.inputs(cut.batch(range(len(cut))))).logits[:, -1].float()
    within = whole[[len(prompt) - 1 for prompt in cut.tokens]]
    spread = float(alone.std())
    if spread == 0:
        raise ModelNotUsable(f"{base.name} answers every prompt alike: its weights are zero or were not read.")
    change = float(torch.stack([padded - alone, within - alone]).abs().max()) / spread
    noise = _noise(spec, base, probe, whole) / spread
    if not change <= max(FLOOR, TIMES_ROUNDING * noise):
        raise ModelNotUsable(
            f"{base.name} does not answer a padded prompt as it answers the prompt alone (its logits change by "
            f"{change:.1g} of their spread, and rounding by {noise:.1g}): it is not causal, ignores the attention mask "
            "or counts positions from the pads. Use another model."
        )


@torch.no_grad()
def check_packing(spec: ModelSpec, base: Base, probe: Encoded, places: int | None) -> None:
    """Refuse to pack prompts for a base that answers them differently in one row than alone, by more than rounding.

    Such models make one causal mask over the row, carry a state across it, or have their own count of positions. One
    with a table of ``places`` positions may have a mask of that size, too, which rows outgrow.
    """
    fix = "set packing = false in [model], or leave out --packing"
    if "position_ids" not in base.accepts:
        raise ModelNotUsable(f"{base.name} takes no positions, so packed prompts would read each other: {fix}.")
    if scales_by_place(base.model.config.get_text_config(decoder=True)):
        raise ModelNotUsable(f"{base.name} scales queries by their place in the row, which packing changes: {fix}.")
    try:
        change, noise = _change_in_row(spec, base, _pieces(probe, packing=True), probe)
        if places is not None:
            row = _longer_row(probe, places)
            base.model(**base.inputs(row.batch(range(len(row)))))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ModelNotUsable(f"{base.name} cannot read packed prompts ({reason}): {fix}.") from error
    if not change <= max(FLOOR, TIMES_ROUNDING * noise):
        raise ModelNotUsable(
            f"{base.name} does not answer packed prompts as it answers each alone (its logits change by "
            f"{change:.1g} of their spread, and rounding by {noise:.1g}), so they would read each "
            f"other: {fix}."
        )


@torch.no_grad()
def check_shared_prefix(spec: ModelSpec, base: Base, probe: Encoded) -> None:
    """Refuse to share the first tokens of packed prompts where a base would answer them differently than alone.

    It must attend prompt by prompt (bench.model.forward.packed_attention); one that passes :func:`check_packing` may
    still have its own attention, or a state that follows the row.
    """
    fix = "set shared_prefix = false in [model], or leave out --shared-prefix"
    if base.model.config._attn_implementation != ATTENTION:
        raise ModelNotUsable(
            f"{base.name} has its own attention instead of transformers' SDPA, so its prompts cannot share their "
            f"first tokens: {fix}."
        )
    change, noise = _change_in_row(spec, base, _forked(probe), probe)
    if not change <= max(FLOOR, TIMES_ROUNDING * noise):
        raise ModelNotUsable(
            f"{base.name} does not answer prompts that share their first tokens as it answers each alone (its logits "
            f"change by {change:.1g} of their spread, and rounding by {noise:.1g}): {fix}."
        )


def _change_in_row(spec: ModelSpec, base: Base, prompts: Encoded, probe: Encoded) -> tuple[float, float]:
    """The largest change of a logit in a packed row, and under rounding noise, both as shares of their spread."""
    alone = torch.stack([_read(base, probe, prompt)[-1] for prompt in prompts.tokens])
    row = prompts.batch(range(len(prompts)))
    change = float((base.at_ends(row, base.model(**base.inputs(row)).logits).float() - alone).abs().max())
    spread = float(alone.std())
    return change / spread, _noise(spec, base, probe, _read(base, probe, probe.tokens[0])) / spread


def _pieces(probe: Encoded, packing: bool = False) -> Encoded:
    """The beginnings of the probe, of very unlike length."""
    tokens, example = probe.tokens[0], probe.examples[0]
    places = sorted({min(3, len(tokens)), max(1, len(tokens) // 4), max(1, len(tokens) // 2), len(tokens)})
    cut = tuple(tokens[:n] for n in places)
    return Encoded(cut, (example,) * len(cut), tokens[0], probe.device, 0, packing=packing)


def _longer_row(probe: Encoded, places: int) -> Encoded:
    """Prompts, of two lengths, that have more than ``places`` tokens in all."""
    tokens, example = probe.tokens[0], probe.examples[0]
    count = max(2, places // max(1, len(tokens) - 1) + 1)
    prompts = tuple(tokens[: len(tokens) - number % 2] for number in range(count))
    return Encoded(prompts, (example,) * len(prompts), tokens[0], probe.device, 0, packing=True)


def _forked(probe: Encoded) -> Encoded:
    """Prompts, two of one length, that begin with a third of the probe and go on with other parts of it."""
    tokens, example = probe.tokens[0], probe.examples[0]
    third = max(1, len(tokens) // 3)
    rests = (tokens[-1:], tokens[third:], tokens[-third:], tokens[:third], tokens[::-1][: third // 2 + 1])
    cut = tuple(tokens[:third] + rest for rest in rests)
    return Encoded(cut, (example,) * len(cut), tokens[0], probe.device, 0, packing=True, shared_prefix=True)


def _read(base: Base, probe: Encoded, ids: Sequence[int]) -> Tensor:
    """(T, V) logits of a prompt by itself."""
    logits: Tensor = base.model(input_ids=torch.tensor([list(ids)], device=probe.device)).logits[0].float()
    return logits


def _noise(spec: ModelSpec, base: Base, probe: Encoded, exact: Tensor) -> float:
    """The largest change of a logit of the probe, ``exact`` (T, V), under several draws of rounding noise.

    Noise on the embeddings is uniform within +-NOISE of each number, or +-half a step of the quantisation of its row
    where that is more.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in range(NOISES)]
    step = QUANTIZATIONS[spec.quantization].step

    def shake(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        wide = output.float()
        size = (NOISE[spec.dtype] * wide.abs()).maximum(step / 2 * wide.abs().amax(-1, keepdim=True))
        uniform = torch.stack([torch.rand(wide.shape[1:], generator=generator) for generator in generators])
        return (wide + (2 * uniform.to(wide) - 1) * size).to(output.dtype)

    hook = base.model.get_input_embeddings().register_forward_hook(shake)
    try:
        row = torch.tensor([list(probe.tokens[0])], device=probe.device)
        rounded = base.model(input_ids=row.expand(NOISES, -1)).logits.float()
    finally:
        hook.remove()
    return float((rounded - exact).abs().max())


def check_finite(spec: ModelSpec, name: str, logits: Tensor, prompt: str = PROBE.prompt) -> None:
    """Refuse a base whose own logits, with B = 0, are not finite: nothing that is trained on it is to blame.

    Raises:
        ModelNotUsable: some are not.
    """
    if bool(logits.isfinite().all()):
        return
    narrow = spec.dtype == "float16" or spec.quantization == "int8"
    where = spec.dtype if spec.quantization == "none" else f"{spec.dtype} with {spec.quantization}"
    fix = "use --dtype bfloat16 or float32" if spec.dtype == "float16" else "use another dtype, or another model"
    raise ModelNotUsable(
        f"The logits of {name} itself, before any training, are not finite in {where} for a prompt that begins "
        f"'{prompt[:60]}'{', because activations overflow' if narrow else ''}: {fix}."
    )


@torch.no_grad()
def layers_that_run(layers: Mapping[str, nn.Module], run: Callable[[], object]) -> set[str]:
    """The names of the layers that ``run`` calls as linear maps of rows: some models only read a layer's weight, some
    have towers that text never passes, and some routers return more than the product."""
    ran: set[str] = set()

    def note(name: str) -> Callable[..., None]:
        def see(layer: Any, args: tuple[Any, ...], output: Any) -> None:
            width = getattr(layer, "out_features", None) or getattr(layer, "nf", None)
            if isinstance(output, Tensor) and args and output.shape == (*args[0].shape[:-1], width):
                ran.add(name)

        return see

    hooks = [layer.register_forward_hook(note(name)) for name, layer in layers.items()]
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
                f"The adapter map {name} ran {len(shapes)} times in one forward pass, and this method "
                "needs exactly once. Choose other lora.targets."
            )
        if shapes[0] not in ((b, t), (b * t,)) and not (adapters[name].at_end and shapes[0] == (b, 1)):
            raise ValueError(
                f"The adapter map {name} sees rows of shape {shapes[0]} for {b} prompts of {t} tokens, "
                "and this method needs one row per token. Choose other lora.targets."
            )
