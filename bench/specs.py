"""What a run *is*: frozen specs, their canonical JSON, their keys, and the random streams derived from them.

A key is the first 16 hex digits of the SHA-256 of the canonical JSON of a spec. In it: everything the numbers depend
on. Out of it: paths, host, device, commit and time, which are provenance (``facts.json``).

Standard library only: ``analysis`` reads specs without loading torch.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

SCHEMA = 1  # raise it when the meaning of a spec changes: every key changes with it

MEMBER = 2**32  # seed + m * MEMBER is the seed of an ensemble's member m: it shares the hold-out, and nothing else

Option = None | bool | int | float | str | tuple[Any, ...]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraSpec:
    """LoRA by PEFT: W + (alpha / r) B A on the layers whose names end in one of ``targets``."""

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.1
    targets: tuple[str, ...] = ("q_proj", "v_proj")

    def __post_init__(self) -> None:
        _require(self.r >= 1, f"lora.r is {self.r}: give a rank of at least 1.")
        _require(0 <= self.dropout < 1, f"lora.dropout is {self.dropout}: give a probability in [0, 1).")
        _require(self.alpha > 0, f"lora.alpha is {self.alpha}: give a scale above 0.")
        _require(bool(self.targets), "lora.targets is empty: name at least one layer, such as q_proj.")
        _require(all(map(str.strip, self.targets)), f"lora.targets is {self.targets}: a layer's name is missing.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The base model. ``id`` is a hub name, ``embedded``, or ``local:<hash>`` for a folder (paths stay out of keys)."""

    id: str = "embedded"
    revision: str = ""
    quantization: str = "none"
    dtype: str = "float32"
    lora: LoraSpec = dataclasses.field(default_factory=LoraSpec)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """Settings of the training loop that all methods share. Defaults: Cong et al. 2024, Appendix (PROTOCOL: paper)."""

    steps: int = 10_000
    batch_size: int = 4  # examples per optimizer step
    micro_batches: int = 1  # pieces each batch is cut into to save memory (gradient accumulation)
    max_length: int = 320  # tokens; longer prompts are cut on the right
    clip_norm: float = 0.0  # largest gradient norm; 0 switches clipping off

    def __post_init__(self) -> None:
        _require(self.steps >= 1, f"steps is {self.steps}: give at least 1.")
        _require(self.batch_size >= 1, f"batch_size is {self.batch_size}: give at least 1.")
        _require(
            1 <= self.micro_batches <= self.batch_size,
            f"micro_batches is {self.micro_batches}: give a number from 1 to batch_size ({self.batch_size}).",
        )
        _require(self.max_length >= 8, f"max_length is {self.max_length}: give at least 8 tokens.")
        _require(self.clip_norm >= 0, f"clip_norm is {self.clip_norm}: give a norm, or 0 for no clipping.")


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
    holdout: float  # share of the training split that is set aside for tuning
    model: ModelSpec
    train: TrainSpec
    seed: int
    bases: tuple[FitSpec, ...] = ()

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


def member(fit: FitSpec, number: int) -> FitSpec:
    """An independent repetition of a fit, and of all that it starts from, for an ensemble; ``number`` 0 is itself."""
    bases = tuple(member(base, number) for base in fit.bases)
    return dataclasses.replace(fit, seed=fit.seed + number * MEMBER, bases=bases)


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ValueError(sentence)


def to_json(spec: Any) -> Any:
    """Plain JSON data of a spec (dataclasses become objects, tuples become arrays)."""
    if dataclasses.is_dataclass(spec) and not isinstance(spec, type):
        return {f.name: to_json(getattr(spec, f.name)) for f in dataclasses.fields(spec)}
    if isinstance(spec, Mapping):
        return {str(name): to_json(value) for name, value in spec.items()}
    if isinstance(spec, tuple | list):
        return [to_json(value) for value in spec]
    return spec


def canonical(data: Any) -> str:
    """One text per value: sorted names, no blanks, ASCII, no NaN."""
    return _text(to_json(data))


def _text(plain: Any) -> str:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def key(spec: FitSpec | RunSpec) -> str:
    """The content hash that names a spec's folder in the store: 16 hex digits. Kept with the spec once it is known."""
    known: str | None = spec.__dict__.get("_key")
    if known is None:
        known = spec.__dict__["_key"] = _hash(spec)
    return known


def _hash(spec: FitSpec | RunSpec) -> str:
    text = _text({"schema": SCHEMA, "kind": type(spec).__name__, "spec": _cast_json(spec)})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _cast_json(spec: Any) -> dict[str, Any]:
    """JSON data of a spec, each number as its field's type: LoraSpec(alpha=16) and alpha=16.0 are one spec."""
    data: dict[str, Any] = {}
    for name, hint in hints(type(spec)).items():
        value: Any = getattr(spec, name)
        if isinstance(value, FitSpec):
            data[name] = _cast_json(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], FitSpec):
            data[name] = [_cast_json(fit) for fit in value]
        elif isinstance(value, DataSpec | ModelSpec | LoraSpec | TrainSpec):
            data[name] = _part_json(value)
        elif isinstance(value, Mapping) or (not value and name == "bases"):
            data[name] = to_json(value)
        else:
            data[name] = to_json(cast(value, hint, name))
    return data


@functools.lru_cache(maxsize=4096)
def _part_json(part: Any) -> dict[str, Any]:
    """The same of a model, data or training spec, of which thousands of fits share a few."""
    return _cast_json(part)


def digest(*axes: Any) -> int:
    """A 63-bit integer derived from the values of ``axes``: the seed of a random stream."""
    return int.from_bytes(hashlib.sha256(canonical(list(axes)).encode()).digest()[:8], "big") >> 1


def seed_for(spec: FitSpec | RunSpec, stream: str) -> int:
    """The seed of a named random stream.

    Only the axes that should matter enter, so AdamW and IVON with one seed see the same batches (``data``), start from
    the same adapters (``init``) and drop the same units (``train``), and a tau sweep reuses one set of draws
    (``predict``). ``holdout`` is the same for all members of an ensemble: none of them may see what it is scored on.
    """
    fit = spec.fit if isinstance(spec, RunSpec) else spec
    if stream == "init":
        return digest(stream, fit.seed, fit.model.lora)
    if stream in ("data", "train"):
        return digest(stream, fit.seed, fit.data.task)
    if stream == "holdout":
        return digest(stream, fit.seed % MEMBER, fit.data.task)
    if stream == "predict" and isinstance(spec, RunSpec):
        return digest(stream, fit.seed, fit.data.task, spec.data.task)
    raise ValueError(f"There is no random stream '{stream}' for a {type(spec).__name__}.")


def hints(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields. Working them out is slow, so each class's are kept."""
    if cls not in _hints:
        _hints[cls] = typing.get_type_hints(cls)
    return _hints[cls]


_hints: dict[type, dict[str, Any]] = {}


def cast(value: Any, hint: Any, name: str) -> Any:
    """``value`` as the type ``hint`` says, so that 1e6, 1000000 and "1e6" give one key.

    Raises:
        ValueError: a sentence naming the setting when the value does not fit the type.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() == "none" and type(None) in args):
            return None
        return cast(value, next(a for a in args if a is not type(None)), name)
    if origin is tuple:
        items = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise ValueError(f"{name} is {value!r}: give a list.")
        return tuple(cast(item, args[0], name) for item in items)
    wrong = ValueError(f"{name} is {value!r}: give a {getattr(hint, '__name__', hint)}.")
    if hint is bool:
        truths = {"true": True, "false": False}
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in truths:
            return truths[value.lower()]
        raise wrong
    if hint is str:
        if isinstance(value, str):
            return value
        raise wrong
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise wrong
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise wrong from None
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(f"{name} is {value!r}: give a finite number.")
    if hint is int:
        if number != int(number):
            raise wrong
        exact = isinstance(value, int) or value.lstrip("+-").isdigit() if isinstance(value, int | str) else False
        return int(value) if exact else int(number)
    return number


def build(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """A dataclass from plain data (JSON or TOML), each number cast to its field's type."""
    types_of = hints(cls)
    made: dict[str, Any] = {}
    for name, value in values.items():
        hint = types_of[name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            made[name] = build(hint, value, f"{prefix}{name}.")
        elif name == "bases":
            made[name] = tuple(build(FitSpec, base) for base in value)
        elif name == "options":
            made[name] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        else:
            made[name] = cast(value, hint, f"{prefix}{name}")
    return cls(**made)
