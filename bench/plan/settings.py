"""Settings: what ``[set]`` in a grid file and ``--set name=value`` may say, checked before anything is loaded.

steps = 200                         a training setting (TrainSpec)
lora.r = 16                         an adapter setting (LoraSpec)
ivon.ess = 1e6                      a hyperparameter of a method
ivon.per_task.wg_s.ess = 1e7        the same for one task
per_task.boolq.steps = 5000         a training setting for one task
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from bench.errors import near_miss, shown
from bench.method import Method, get_method, is_method, method_names
from bench.specs import LoraSpec, TrainSpec, cast, hints
from bench.specs.toml import parse_toml
from bench.task import task_names

Layer = Mapping[str, Any]

# Larger numbers are slips, or overflow: nothing moves any more, or every prediction is uniform.
LARGEST = {
    "batch_size": 2**16,
    "max_length": 2**20,
    "clip_norm": 1e9,
    "lora.r": 2**16,
    "lora.alpha": 1e6,
}


class Settings:
    """Checked settings in layers. A later layer overrides an earlier one, its per-task settings too.

    Args:
        layers: nested tables, as TOML and :func:`parse_assignment` return them.

    Raises:
        LookupError: an unknown name, with the near miss.
        ValueError: a value of the wrong type or out of range.
    """

    def __init__(self, *layers: Layer) -> None:
        self._layers = layers
        for layer in layers:
            _check_names(layer)
        self.lora = LoraSpec(**_typed(LoraSpec, (layer.get("lora", {}) for layer in layers), "lora."))
        tasks = {task for layer in layers for task in layer.get("per_task", {})}
        self._train = {task: self._train_spec(task) for task in ("", *tasks)}
        self._methods: dict[tuple[str, str], Method] = {}
        for layer in layers:
            for name in filter(is_method, layer):
                for task in ("", *layer[name].get("per_task", {})):
                    self.method(name, task)

    def over(self, layer: Layer) -> Settings:
        """These settings, overridden by one more layer."""
        return Settings(*self._layers, layer)

    def train(self, task: str) -> TrainSpec:
        """The training settings for a task."""
        return self._train.get(task, self._train[""])

    def method(self, name: str, task: str) -> Method:
        """The method with its hyperparameters for a task."""
        if (name, task) not in self._methods:
            self._methods[name, task] = get_method(name).make(self._values(name, task))
        return self._methods[name, task]

    def _values(self, name: str, task: str) -> dict[str, Any]:
        """What the layers set of a method for a task, over what they set of the one whose settings it takes over."""
        cls = get_method(name)
        values: dict[str, Any] = {}
        if cls.settings_of:
            shared = self._values(cls.settings_of, task)
            values = {option: shared[option] for option in shared.keys() & cls.hyperparameters().keys()}
        for layer in self._layers:
            plain = dict(layer.get(name, {}))
            special = plain.pop("per_task", {}).get(task, {})
            values |= plain | special
        return values

    def _train_spec(self, task: str) -> TrainSpec:
        values: dict[str, Any] = {}
        for layer in self._layers:
            plain = {name: value for name, value in layer.items() if name in hints(TrainSpec)}
            values |= _typed(TrainSpec, [plain], "")
            values |= _typed(TrainSpec, [layer.get("per_task", {}).get(task, {})], f"per_task.{task}.")
        return TrainSpec(**values)


def _typed(cls: type, tables: Iterable[Layer], prefix: str) -> dict[str, Any]:
    """The values of all tables, later ones over earlier ones, cast to the types of a spec's fields."""
    found: dict[str, Any] = {}
    for table in tables:
        for name, value in table.items():
            found[name] = cast(value, hints(cls)[name], prefix + name)
            largest = LARGEST.get(name if cls is TrainSpec else f"lora.{name}")
            if largest is not None and found[name] > largest:
                raise ValueError(f"{prefix}{name} is {shown(value)}: must be at most {largest:g}.")
    return found


def _check_names(layer: Layer) -> None:
    """Refuse what is not a setting, or not a table where one belongs."""
    train = hints(TrainSpec)
    for name, value in layer.items():
        if name in train:
            continue
        if name == "lora":
            _check_fields(value, LoraSpec, "lora")
        elif name == "per_task":
            for task, inner in _tasks(value, "per_task"):
                _check_fields(inner, TrainSpec, f"per_task.{task}")
        elif is_method(name):
            for task, inner in _tasks(table_of(value, name).get("per_task", {}), f"{name}.per_task"):
                table_of(inner, f"{name}.per_task.{task}")
        else:
            known = [*train, "lora", "per_task", *method_names()]
            raise LookupError(f"There is no setting '{name}'.{near_miss(name, known)}")


def _tasks(value: Any, place: str) -> Iterable[tuple[str, Any]]:
    for task, inner in table_of(value, place).items():
        if task not in task_names():
            raise LookupError(f"{place} names '{task}', which is not a task.{near_miss(task, task_names())}")
        yield task, inner


def _check_fields(value: Any, cls: type, place: str) -> None:
    for name in table_of(value, place):
        if name not in hints(cls):
            raise LookupError(f"There is no setting '{place}.{name}'.{near_miss(name, hints(cls))}")


def table_of(value: Any, name: str) -> Layer:
    """``value`` if it is a table."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {shown(value)}: it is a table of settings, such as {name}.x = 1.")
    return value


def parse_assignment(text: str, option: str = "--set") -> dict[str, Any]:
    """``ivon.ess=1e6`` as nested settings. Values are read as TOML; what is not TOML is a string.

    Raises:
        ValueError: it is not one assignment; the message starts with ``option``.
    """
    name, equals, value = text.partition("=")
    *outer, last = [part.strip() for part in name.split(".")]
    if not equals or not all((*outer, last)) or len(outer) > 8:
        raise ValueError(f"{option} {shown(text)}: write it as name=value, such as steps=200 or ivon.ess=1e6.")
    try:
        content = parse_toml(f"value = {value.strip()}")
    except ValueError:
        content = {"value": value.strip()}
    if len(content) > 1:
        raise ValueError(f"{option} {shown(text)}: write one setting, and repeat {option} for each further one.")
    nested: dict[str, Any] = {last: content["value"]}
    for part in reversed(outer):
        nested = {part: nested}
    return nested


def merge(*tables: Layer) -> dict[str, Any]:
    """The tables in one; later ones win, table by table."""
    result: dict[str, Any] = {}
    for table in tables:
        for name, value in table.items():
            if isinstance(value, Mapping) and isinstance(result.get(name), dict):
                result[name] = merge(result[name], value)
            else:
                result[name] = copy.deepcopy(value)
    return result


def check_used(layer: Layer, methods: Collection[str], tasks: Collection[str], option: str = "--set") -> None:
    """Refuse settings of the command line that none of the planned methods or tasks would read.

    Args:
        methods: those that are planned, and those that they start from.

    Raises:
        LookupError: such a setting, by name.
    """
    for name, value in layer.items():
        if is_method(name) and name not in methods:
            raise LookupError(
                f"{option} {name}: neither '{name}' nor a method that starts from it is planned, so nothing would "
                f"read it.{near_miss(name, methods)}"
            )
        per_task = value if name == "per_task" else value.get("per_task", {}) if isinstance(value, Mapping) else {}
        for task in per_task:
            if task not in tasks:
                where = name if name == "per_task" else f"{name}.per_task"
                raise LookupError(f"{option} {where}.{task}: that task is not planned.{near_miss(task, tasks)}")


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
