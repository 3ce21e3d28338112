"""Execution settings: how to compute, which no key depends on. Plain values that pickle and serialise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.data.splits import DataSource
from bench.model.placement import DeviceMap
from bench.process.holder import SECONDS

PATHS, LISTS = ("data_dir", "model_path", "adapter_path"), ("plugins", "track")  # fields that JSON has otherwise


@dataclasses.dataclass(frozen=True)
class Execution:
    """The settings of a worker, other than the store and its families.

    Attributes:
        source: where rows come from.
        model_path: folder of a local model, or None.
        device: "auto", "cpu", "cuda" or "cuda:N".
        threads: CPU threads of each process; sums are taken in another order with another number.
        eval_every: steps between mid-run evaluations; 0 for none.
        graphs: train with CUDA graphs (bench.train.graphs).
        compile: train with compiled layers (bench.model.forward.compiled).
        recompute: gradient checkpointing in trainings (bench.model.forward.recompute).
        checkpoint_seconds: least time between two checkpoints.
        claim_seconds: life of a claim without a heartbeat.
        plugins: modules to import first.
        track: names of trackers (bench.train.trackers).
        adapter_path: folder of a user-supplied adapter, or None.
        device_map: how the layers of the base are spread over devices (bench.model.placement), or None.
    """

    source: DataSource = dataclasses.field(default_factory=DataSource)
    model_path: Path | None = None
    device: str = "auto"
    threads: int = 1
    eval_every: int = 0
    graphs: bool = False
    compile: bool = False
    recompute: bool = False
    checkpoint_seconds: float = 30.0
    claim_seconds: float = SECONDS
    plugins: tuple[str, ...] = ()
    track: tuple[str, ...] = ()
    adapter_path: Path | None = None
    device_map: DeviceMap | None = None


def pack(execution: Execution) -> dict[str, Any]:
    """The settings as flat JSON data. Paths in full: the reader may run in another folder."""
    fields = {**vars(execution), **vars(execution.source)}
    del fields["source"]
    for name in PATHS:
        fields[name] = None if fields[name] is None else str(fields[name].resolve())
    return {**fields, **{name: list(fields[name]) for name in LISTS}}


def unpack(data: Mapping[str, Any]) -> Execution:
    """The settings from :func:`pack`. Settings that were added since keep their defaults.

    Raises:
        ValueError: a setting is not known here: a newer version wrote it.
    """
    known = {name: None if data.get(name) is None else Path(data[name]) for name in PATHS}
    values = {**data, **known, **{name: tuple(data.get(name, ())) for name in LISTS}}
    source = {field.name: values.pop(field.name) for field in dataclasses.fields(DataSource) if field.name in values}
    if unknown := set(values) - {field.name for field in dataclasses.fields(Execution)}:
        raise ValueError(f"it has the setting '{min(unknown)}', which a newer version of the suite wrote")
    return Execution(source=DataSource(**source), **values)
