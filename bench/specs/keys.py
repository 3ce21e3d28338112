"""Canonical JSON of specs, the keys hashed from it, and the random streams derived from a spec.

A key is the first 16 hex digits of the SHA-256 of the canonical JSON of a spec. Everything the numbers depend on enters
it. Paths, host, device, commit and time are provenance (``facts.json``) and do not.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from bench.specs.casting import cast, hints
from bench.specs.spec import MEMBER, SINCE, DataSpec, FitSpec, LoraSpec, ModelSpec, RunSpec, TrainSpec

SCHEMA = 1  # raise it when the meaning of a spec changes: every key changes with it


def to_json(spec: Any) -> Any:
    """Plain JSON data of a spec (dataclasses become objects, tuples become arrays)."""
    if spec is None or type(spec) in (str, int, float, bool):  # most of what thousands of specs hold
        return spec
    if isinstance(spec, Mapping):
        return {str(name): to_json(value) for name, value in spec.items()}
    if isinstance(spec, tuple | list):
        return [to_json(value) for value in spec]
    if dataclasses.is_dataclass(spec) and not isinstance(spec, type):
        return {name: to_json(getattr(spec, name)) for name in present(spec)}
    return spec


def present(spec: Any) -> list[str]:
    """The fields of a spec that its JSON shows: all but those added later (``SINCE``) that are at their defaults.

    Raises:
        TypeError: a field with ``SINCE`` has no default.
    """
    return [name for name, later in _fields(type(spec)) if not (later and getattr(spec, name) == later[0])]


def _fields(cls: type) -> list[tuple[str, tuple[Any, ...]]]:
    """Each field of a spec's class, with the default of one that was added later; () for the others. Kept."""
    if cls not in _known:
        _known[cls] = [(field.name, _later(cls, field)) for field in dataclasses.fields(cls)]
    return _known[cls]


_known: dict[type, list[tuple[str, tuple[Any, ...]]]] = {}


def _later(cls: type, field: dataclasses.Field[Any]) -> tuple[Any, ...]:
    if SINCE not in field.metadata:
        return ()
    if field.default is dataclasses.MISSING:
        raise TypeError(f"{cls.__name__}.{field.name} was added later: write a plain default, which keys omit.")
    return (field.default,)


_TEXT = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True).encode


def canonical(data: Any) -> str:
    """One text per value: sorted names, no blanks, ASCII, no NaN."""
    return _TEXT(to_json(data))


def key(spec: FitSpec | RunSpec) -> str:
    """The content hash that names a spec's folder in the store: 16 hex digits. Kept with the spec once it is known."""
    known: str | None = spec.__dict__.get("_key")
    if known is None:
        known = spec.__dict__["_key"] = _hash(spec)
    return known


def _hash(spec: FitSpec | RunSpec) -> str:
    inner = _fit_text(spec) if isinstance(spec, FitSpec) else _cast_text(spec)
    text = f'{{"kind":"{type(spec).__name__}","schema":{SCHEMA},"spec":{inner}}}'
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _cast_text(spec: Any) -> str:
    """Canonical JSON of a spec, each number as its field's type: LoraSpec(alpha=16) and alpha=16.0 are one spec.

    It is put together from the texts of the parts, which thousands of specs share.
    """
    types_of = hints(type(spec))
    named = (f'"{name}":{_value(getattr(spec, name), types_of[name], name)}' for name in sorted(present(spec)))
    return f"{{{','.join(named)}}}"


def _value(value: Any, hint: Any, name: str) -> str:
    if hint is str and type(value) is str:
        return _TEXT(value)
    if hint is int and type(value) is int:
        return str(value)
    if isinstance(value, FitSpec):
        return _fit_text(value)
    if isinstance(value, DataSpec | ModelSpec | LoraSpec | TrainSpec):
        return _part_text(value)
    if isinstance(value, tuple) and value and isinstance(value[0], FitSpec):
        return f"[{','.join(map(_fit_text, value))}]"
    if isinstance(value, Mapping) or (not value and name == "bases"):
        return canonical(value)
    return _TEXT(to_json(cast(value, hint, name)))


def _fit_text(fit: FitSpec) -> str:
    """The same of a fit, kept with it: its own key and those of all its evaluations need it."""
    known: str | None = fit.__dict__.get("_text")
    if known is None:
        known = fit.__dict__["_text"] = _cast_text(fit)
    return known


@functools.lru_cache(maxsize=4096)
def _part_text(part: Any) -> str:
    """The same of a model, data or training spec, of which thousands of fits share a few."""
    return _cast_text(part)


def digest(*axes: Any) -> int:
    """A 63-bit integer derived from the values of ``axes``: the seed of a random stream."""
    return int.from_bytes(hashlib.sha256(canonical(list(axes)).encode()).digest()[:8], "big") >> 1


def seed_for(spec: FitSpec | RunSpec, stream: str) -> int:
    """The seed of a named random stream.

    Only the axes that should matter enter, so AdamW and IVON with one seed see the same batches (``data``), start from
    the same adapters (``init``) and drop the same units (``train``), and a tau sweep reuses one set of draws
    (``predict``). ``before`` and ``noise before`` seed torch's global stream and the fit's generator until the training
    loop seeds them for each step; ``noise of layers`` seeds the global stream of a prediction. ``holdout`` is the same
    for all members of an ensemble: none of them may see what it is scored on.
    """
    fit = spec.fit if isinstance(spec, RunSpec) else spec
    if stream == "init":
        return digest(stream, fit.seed, fit.model.lora)
    if stream in ("data", "train", "before", "noise before"):
        return digest(stream, fit.seed, fit.data.task)
    if stream == "holdout":
        return digest(stream, fit.seed % MEMBER, fit.data.task)
    if stream in ("predict", "noise of layers") and isinstance(spec, RunSpec):
        return digest(stream, fit.seed, fit.data.task, spec.data.task)
    raise ValueError(f"There is no random stream '{stream}' for a {type(spec).__name__}.")
