"""Specs: frozen dataclasses that say what a posterior and an evaluation are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bench.errors import near_miss

MEMBER = 2**32  # seed + m * MEMBER is the seed of an ensemble's member m: it shares the hold-out, and nothing else

# The metadata key of a field that was added after results had been stored, with the version that added it. While such
# a field has its default it is left out of all JSON, so neither keys nor random streams of earlier results change.
SINCE = "since"
LORA_VARIANTS = ("lora", "dora", "rslora")
PROMPTS = ("plain", "chat")

Option = None | bool | int | float | str | tuple[Any, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraSpec:
    """LoRA by PEFT: W + (alpha / r) B A on the linear layers that ``targets`` name.

    A target is the end of a layer's name (``q_proj``), a pattern over full names (``*language_model*.q_proj``) or
    ``head``, the answer rows of the output layer. ``variant``: lora; rslora (alpha / sqrt(r), Kalajdzievski 2023,
    arXiv 2312.03732); dora (a trainable magnitude for each output, Liu et al. 2024, arXiv 2402.09353).
    """

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.1
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    variant: str = dataclasses.field(default="lora", metadata={SINCE: "0.2"})

    def __post_init__(self) -> None:
        _require(self.r >= 1, f"lora.r is {self.r}: must be at least 1.")
        _require(0 <= self.dropout < 1, f"lora.dropout is {self.dropout}: must be a probability in [0, 1).")
        if self.variant not in LORA_VARIANTS:  # near misses take a while, and thousands of specs are made
            raise ValueError(f"lora.variant is '{self.variant}'.{near_miss(self.variant, LORA_VARIANTS)}")
        _require(self.alpha > 0, f"lora.alpha is {self.alpha}: must be above 0.")
        _require(bool(self.targets), "lora.targets is empty: name at least one layer, such as q_proj.")
        _require(all(map(str.strip, self.targets)), f"lora.targets is {self.targets}: a layer's name is missing.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The base model and the form of its prompts.

    ``id`` is a hub name, ``embedded``, or ``local:<hash>`` for a folder (paths stay out of keys). ``prompt``: the
    task's text as it is (``plain``, the paper's), or as one turn of the tokenizer's template (``chat``). ``packing``:
    the prompts of a batch share one row without padding (bench.data.packing). It shifts numbers by rounding and draws
    dropout masks in another shape, so it belongs to the key. ``shared_prefix``: the tokens that all prompts of a packed
    row begin with are in it once, and batches at prediction are packed, too.
    """

    id: str = "embedded"
    revision: str = ""
    quantization: str = "none"
    dtype: str = "float32"
    lora: LoraSpec = dataclasses.field(default_factory=LoraSpec)
    prompt: str = dataclasses.field(default="plain", metadata={SINCE: "0.2"})
    packing: bool = dataclasses.field(default=False, metadata={SINCE: "0.2"})
    shared_prefix: bool = dataclasses.field(default=False, metadata={SINCE: "0.2"})

    def __post_init__(self) -> None:
        _require(
            self.packing or not self.shared_prefix,
            "Prompts share their first tokens (--shared-prefix, or shared_prefix in [model]) only in packed rows: add "
            "--packing, or packing = true in [model].",
        )
        if self.prompt not in PROMPTS:
            raise ValueError(f"model.prompt is '{self.prompt}'.{near_miss(self.prompt, PROMPTS)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """Settings of the training loop that all methods share. Defaults: Cong et al. 2024, Appendix (PROTOCOL: paper)."""

    steps: int = 10_000
    batch_size: int = 4  # examples per optimizer step
    micro_batches: int = 1  # pieces each batch is cut into to save memory (gradient accumulation)
    max_length: int = 320  # tokens; longer prompts are cut on the right
    clip_norm: float = 0.0  # largest gradient norm; 0 switches clipping off

    def __post_init__(self) -> None:
        _require(self.steps >= 1, f"steps is {self.steps}: must be at least 1.")
        _require(self.steps <= 10**9, f"steps is {self.steps}: must be at most {10**9}.")
        _require(self.batch_size >= 1, f"batch_size is {self.batch_size}: must be at least 1.")
        _require(
            1 <= self.micro_batches <= self.batch_size,
            f"micro_batches is {self.micro_batches}: must be from 1 to batch_size ({self.batch_size}).",
        )
        _require(self.max_length >= 8, f"max_length is {self.max_length}: must be at least 8 tokens.")
        _require(self.clip_norm >= 0, f"clip_norm is {self.clip_norm}: must be a norm, or 0 for no clipping.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSpec:
    """A task's data. ``revision`` is the hub's pinned commit, with ``+partial:<hash>`` where rows were missing."""

    task: str
    version: int
    revision: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitSpec:
    """One posterior: what it was trained on, how, from which seed and from which other posteriors (``bases``)."""

    method: str
    version: int
    options: Mapping[str, Option]
    data: DataSpec
    holdout: float  # share of the training split that is set aside
    model: ModelSpec
    train: TrainSpec
    seed: int
    bases: tuple[FitSpec, ...] = ()
    tuning: float = dataclasses.field(default=0.0, metadata={SINCE: "0.2"})  # share it sets aside for its own tuning

    @property
    def reserved(self) -> float:
        """The share of the training split that this fit does not train on: it is scored on it, or tunes on it.

        A fit that tunes leaves ``tuning`` beyond ``holdout`` for that, or what its bases have left for it.
        """
        own = round(self.holdout + self.tuning, 9) if self.tuning else self.holdout
        return max([own, *(base.holdout for base in self.bases)])

    @property
    def root(self) -> FitSpec:
        """The training run that this fit, through its first base, hangs from: the family it belongs to."""
        return self.bases[0].root if self.bases else self


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One evaluation of one posterior by one method on one split."""

    fit: FitSpec
    method: str
    version: int
    options: Mapping[str, Option]
    data: DataSpec
    split: str
    batch_size: int = 32  # examples per forward pass; shifts numbers by rounding, so it belongs to the key
    protocol: str = "paper"
    variant: str = ""  # the grid's label for a set of settings, such as "tuned"
    purpose: str = "result"  # "result" is ranked; "sweep" and "tune" are not
    # tokens per forward pass, in padded rows, instead of batch_size examples; 0: batch_size counts
    batch_tokens: int = dataclasses.field(default=0, metadata={SINCE: "0.2"})

    def __post_init__(self) -> None:
        _require(self.batch_tokens >= 0, f"batch_tokens is {self.batch_tokens}: must be a number of tokens, or 0.")


def member(fit: FitSpec, number: int) -> FitSpec:
    """An independent repetition of a fit, and of all that it starts from, for an ensemble; ``number`` 0 is itself."""
    bases = tuple(member(base, number) for base in fit.bases)
    return dataclasses.replace(fit, seed=fit.seed + number * MEMBER, bases=bases)


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ValueError(sentence)
