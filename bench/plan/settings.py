"""Settings: what ``[set]`` in a grid file and ``--set name=value`` may say, checked before anything is loaded.

steps = 200                         a training setting (TrainSpec)
lora.r = 16                         an adapter setting (LoraSpec)
ivon.ess = 1e6                      a hyperparameter of a method
ivon.per_task.wg_s.ess = 1e7        the same for one task
per_task.boolq.steps = 5000         a training setting for one task
"""

from __future__ import annotations

import copy
import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import near_miss
from bench.method import Method, get_method, method_names
from bench.specs import LoraSpec, TrainSpec, cast, hints
from bench.task import task_names

Settings = dict[str, Any]


def parse_assignment(text: str, option: str = "--set") -> Settings:
    """``ivon.ess=1e6`` as nested settings. Values are read as TOML; what is not TOML is a string."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"{option} {text!r}: write it as name=value, such as steps=200 or ivon.ess=1e6.")
    try:
        content = tomllib.loads(f"value = {value.strip()}")
    except (tomllib.TOMLDecodeError, RecursionError):
        content = {"value": value.strip()}
    if len(content) > 1:
        raise ValueError(f"{option} {text!r}: write one setting, and repeat {option} for each further one.")
    parsed = content["value"]
    nested: Settings = {}
    place = nested
    *outer, last = [part.strip() for part in name.split(".")]
    for part in outer:
        place = place.setdefault(part, {})
    place[last] = parsed
    return nested


def merge(*layers: Mapping[str, Any]) -> Settings:
    """Settings of all layers; later ones win, table by table."""
    result: Settings = {}
    for layer in layers:
        for name, value in layer.items():
            if isinstance(value, Mapping) and isinstance(result.get(name), dict):
                result[name] = merge(result[name], value)
            else:
                result[name] = copy.deepcopy(value)
    return result


def laid_over(settings: Mapping[str, Any]) -> Settings:
    """Checked settings that also win over the per-task ones of what they are merged into; their own win over them."""
    names = (*(field.name for field in dataclasses.fields(TrainSpec)), "per_task")
    train = {name: value for name, value in settings.items() if name in names}
    methods = {name: _on_every_task(value) for name, value in settings.items() if name in method_names()}
    return {**settings, **_on_every_task(train), **methods}


def _on_every_task(table: Mapping[str, Any]) -> Settings:
    plain = {name: value for name, value in table.items() if name != "per_task"}
    own = table.get("per_task", {})
    if not plain:
        return dict(table)
    return {**plain, "per_task": {task: {**plain, **own.get(task, {})} for task in task_names()}}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Every name known and every value of its type.

    Raises:
        LookupError: an unknown name, with the near miss.
        ValueError: a value that does not fit.
    """
    train = [field.name for field in dataclasses.fields(TrainSpec)]
    for name, value in settings.items():
        if name in train:
            cast(value, hints(TrainSpec)[name], name)
        elif name == "lora":
            _check_fields(table_of(value, "lora"), LoraSpec, "lora.")
        elif name == "per_task":
            for task, inner in table_of(value, "per_task").items():
                _check_task(task, "per_task")
                _check_fields(table_of(inner, f"per_task.{task}"), TrainSpec, f"per_task.{task}.")
        elif name in method_names():
            _check_method(name, table_of(value, name))
        else:
            known = [*train, "lora", "per_task", *method_names()]
            raise LookupError(f"There is no setting '{name}'.{near_miss(name, known)}")


def _check_method(name: str, values: Mapping[str, Any]) -> None:
    cls = get_method(name)
    plain = {k: v for k, v in values.items() if k != "per_task"}
    cls.make(plain)
    for task, inner in table_of(values.get("per_task", {}), f"{name}.per_task").items():
        _check_task(task, f"{name}.per_task")
        cls.make({**plain, **table_of(inner, f"{name}.per_task.{task}")})


def _check_task(task: str, place: str) -> None:
    if task not in task_names():
        raise LookupError(f"{place} names '{task}', which is no task.{near_miss(task, task_names())}")


def _check_fields(values: Mapping[str, Any], cls: type, prefix: str) -> None:
    types = hints(cls)
    for name, value in values.items():
        if name not in types:
            raise LookupError(f"There is no setting '{prefix}{name}'.{near_miss(name, types)}")
        cast(value, types[name], prefix + name)


def table_of(value: Any, name: str) -> Mapping[str, Any]:
    """``value`` if it is a table."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {value!r}: it is a table of settings, such as {name}.x = 1.")
    return value


def method_for(settings: Mapping[str, Any], name: str, task: str) -> Method:
    """The method with the settings that hold for a task."""
    values = dict(settings.get(name, {}))
    special = values.pop("per_task", {}).get(task, {})
    return get_method(name).make({**values, **special})


def train_for(settings: Mapping[str, Any], task: str) -> TrainSpec:
    """The training settings that hold for a task."""
    types = hints(TrainSpec)
    values = {name: settings[name] for name in types if name in settings}
    values.update(settings.get("per_task", {}).get(task, {}))
    return TrainSpec(**{name: cast(value, types[name], name) for name, value in values.items()})


def lora_for(settings: Mapping[str, Any]) -> LoraSpec:
    """The adapter settings."""
    types = hints(LoraSpec)
    return LoraSpec(**{name: cast(v, types[name], f"lora.{name}") for name, v in settings.get("lora", {}).items()})


def read_toml(file: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        FileNotFoundError, ValueError: it is not there, or not TOML; the message says where.
    """
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))  # as editors on Windows write it
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {file}.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read as TOML: {error}.") from error


def describe(cls: type[Method]) -> list[dict[str, str]]:
    """Name, default, reader and meaning of each hyperparameter of a method class."""
    return [
        {
            "name": one.name,
            "default": str(one.default),
            "reader": one.reader,
            "doc": one.doc + (f" ({', '.join(map(str, one.choices))})" if one.choices else ""),
        }
        for one in cls.hyperparameters().values()
    ]
