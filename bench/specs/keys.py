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
    if dataclasses.is_dataclass(spec) and not isinstance(spec, type):
        return {name: to_json(getattr(spec, name)) for name in present(spec)}
    if isinstance(spec, Mapping):
        return {str(name): to_json(value) for name, value in spec.items()}
    if isinstance(spec, tuple | list):
        return [to_json(value) for value in spec]
    return spec


def present(spec: Any) -> list[str]:
    """The fields of a spec that its JSON shows: all but those added later (``SINCE``) that are at their defaults.

    Raises:
        TypeError: a field with ``SINCE`` has no default.
    """
    return [field.name for field in dataclasses.fields(spec) if not _absent(spec, field)]


def _absent(spec: Any, field: dataclasses.Field[Any]) -> bool:
    if SINCE not in field.metadata:
        return False
    if field.default is dataclasses.MISSING:
        raise TypeError(f"{type(spec).__name__}.{field.name} was added later: write a plain default, which keys omit.")
    return bool(getattr(spec, field.name) == field.default)


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
    text = _text(
        {
            "schema": SCHEMA,
            "kind": type(spec).__name__,
            "spec": _fit_json(spec) if isinstance(spec, FitSpec) else _cast_json(spec),
        }
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _cast_json(spec: Any) -> dict[str, Any]:
    """JSON data of a spec, each number as its field's type: LoraSpec(alpha=16) and alpha=16.0 are one spec."""
    data: dict[str, Any] = {}
    types_of = hints(type(spec))
    for name in present(spec):
        hint, value = types_of[name], getattr(spec, name)
        if type(value) is hint and hint in (str, int, bool):  # most of them, and thousands of specs are hashed
            data[name] = value
        elif isinstance(value, FitSpec):
            data[name] = _fit_json(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], FitSpec):
            data[name] = [_fit_json(fit) for fit in value]
        elif isinstance(value, DataSpec | ModelSpec | LoraSpec | TrainSpec):
            data[name] = _part_json(value)
        elif isinstance(value, Mapping) or (not value and name == "bases"):
            data[name] = to_json(value)
        else:
            data[name] = to_json(cast(value, hint, name))
    return data


def _fit_json(fit: FitSpec) -> dict[str, Any]:
    """The same of a fit, kept with it: its own key and those of all its evaluations need it."""
    known: dict[str, Any] | None = fit.__dict__.get("_json")
    if known is None:
        known = fit.__dict__["_json"] = _cast_json(fit)
    return known


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
