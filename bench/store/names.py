"""Names in specs: what the registry and the plan accept, asked again of specs that are read. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bench.specs import FitSpec, RunSpec
from bench.store.schema import finite

PROTOCOLS = ("paper", "clean")  # bench.plan.protocol
PURPOSES = ("result", "sweep", "tune")
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")  # methods, tasks, splits: bench.registry
LABEL = re.compile(r"[\w.+ -]{0,64}")  # variants: bench.plan.runs
_IDENTITY = re.compile(r"([A-Za-z0-9][\w./:@+-]{0,199})?")  # hub names, revisions, `local:<hash>`
_OPTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_LONGEST = 1000  # characters of a text in an option


def misnamed(spec: FitSpec | RunSpec) -> str:
    """The first name in a spec that this suite would not have accepted, as a phrase; "" if there is none."""
    for what, value, sound in _names(spec):
        if not sound:
            shown = ascii(value)
            return f"the {what} is {shown if len(shown) <= 80 else shown[:77] + '...'}"
    return ""


def _names(spec: FitSpec | RunSpec) -> Iterator[tuple[str, Any, bool]]:
    """(what it is, its value, whether it is accepted) for every name in a spec."""
    yield "method", spec.method, bool(NAME.fullmatch(spec.method))
    yield "task", spec.data.task, bool(NAME.fullmatch(spec.data.task))
    yield "data revision", spec.data.revision, bool(_IDENTITY.fullmatch(spec.data.revision))
    for name, value in spec.options.items():
        yield "name of an option", name, bool(_OPTION.fullmatch(name))
        yield f"option {name!a}", value, _plain(value)
    if isinstance(spec, RunSpec):
        yield "split", spec.split, bool(NAME.fullmatch(spec.split))
        yield "protocol", spec.protocol, spec.protocol in PROTOCOLS
        yield "variant", spec.variant, bool(LABEL.fullmatch(spec.variant))
        yield "purpose", spec.purpose, spec.purpose in PURPOSES
        yield from _names(spec.fit)
        return
    model = spec.model
    yield "model", model.id, bool(model.id and _IDENTITY.fullmatch(model.id))
    yield "model revision", model.revision, bool(_IDENTITY.fullmatch(model.revision))
    yield "quantization", model.quantization, bool(NAME.fullmatch(model.quantization))
    yield "dtype", model.dtype, bool(NAME.fullmatch(model.dtype))
    for target in model.lora.targets:
        yield "LoRA target", target, _plain(target)
    for base in spec.bases:
        yield from _names(base)


def _plain(value: Any) -> bool:
    """Whether an option's value is None, a finite number, one printable line, or a list of those."""
    if isinstance(value, str):
        return value.isprintable() and len(value) <= _LONGEST
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return finite(value) if isinstance(value, int | float) else not isinstance(value, Mapping)
