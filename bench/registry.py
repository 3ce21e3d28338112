"""Methods and tasks by name. ``bench`` knows none of them: it imports the two packages at the first look-up."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bench.errors import BrokenPlugin, near_miss

if TYPE_CHECKING:
    from bench.method import Method
    from bench.task import Task

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_RESERVED = {"lora", "per_task", "set", "include", "methods", "sweep"}  # words that settings files use for themselves

M = TypeVar("M", bound="type[Method]")
K = TypeVar("K", bound="type[Task]")
T = TypeVar("T", bound=type)

_methods: dict[str, type[Method]] = {}
_tasks: dict[str, type[Task]] = {}
_loaded: set[str] = set()


def register_method(cls: M) -> M:
    """Class decorator: make a :class:`bench.method.Method` known under its ``name``."""
    _add(_methods, cls, "method")
    return cls


def register_task(cls: K) -> K:
    """Class decorator: make a :class:`bench.task.Task` known under its ``name``."""
    _add(_tasks, cls, "task")
    return cls


def get_method(name: str) -> type[Method]:
    """The method class of that name.

    Raises:
        LookupError: no such method; the message names the near misses.
    """
    _load("methods")
    found = _get(_methods, name, "method")
    chain = [name]
    while (base := getattr(_methods.get(chain[-1]), "base", None)) is not None:
        chain.append(base)
        if base in chain[:-1]:
            raise ValueError(f"The bases of method '{name}' go in a circle: {' -> '.join(chain)}. Mend one `base`.")
    return found


def get_task(name: str) -> Task:
    """A task instance by name.

    Raises:
        LookupError: no such task; the message names the near misses.
    """
    _load("tasks")
    return _get(_tasks, name, "task")()


def method_names() -> list[str]:
    """All registered method names, sorted."""
    _load("methods")
    return sorted(_methods)


def task_names() -> list[str]:
    """All registered task names, sorted."""
    _load("tasks")
    return sorted(_tasks)


def load_plugin(module: str) -> None:
    """Import a module (``--plugin my_pkg.my_module``) whose decorators register methods or tasks.

    The working directory is searched too, so a file beside the grid is enough.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", module) or module.endswith(".py"):
        raise LookupError(f"--plugin {module!r} is not a module name: write it as my_pkg.my_module, without .py.")
    _load("methods")
    _load("tasks")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        importlib.import_module(module)
    except (SyntaxError, NameError, AttributeError) as error:
        raise BrokenPlugin(
            f"--plugin {module} cannot be imported ({type(error).__name__}: {error}): mend it. `bench --debug` shows "
            "where it broke."
        ) from error
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(error.name + ".")):
            raise
        raise LookupError(
            f"--plugin {module}: no such module. Run from the folder that holds it, or put it on PYTHONPATH."
        ) from error


def _add(table: dict[str, Any], cls: type, kind: str) -> None:
    name = getattr(cls, "name", None)
    where = f"{cls.__module__}.{cls.__qualname__}"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{where}: set `name` to lower-case letters, digits and underscores; it is {name!r}.")
    if name in _RESERVED or (kind == "method" and name in _train_settings()):
        raise ValueError(f"{where}: the name '{name}' is taken by a setting of the suite; choose another.")
    if name in table:
        other = f"{table[name].__module__}.{table[name].__qualname__}"
        raise ValueError(f"Two {kind}s are named '{name}': {other} and {where}. Rename one of them.")
    if kind == "task":
        setattr(cls, "answers", _answers(cls, where))  # noqa: B010  (the attribute is Task's)
    table[name] = cls


def _answers(cls: type, where: str) -> tuple[str, ...]:
    answers = getattr(cls, "answers", None)
    if (
        not isinstance(answers, tuple | list)  # a set has no order, and a string is not a list of words
        or len(answers) < 2
        or not all(isinstance(answer, str) and answer.strip() for answer in answers)
        or len(set(answers)) < len(answers)
    ):
        raise ValueError(f"{where}: set `answers` to a tuple of two or more different words; it is {answers!r}.")
    return tuple(answers)


def _train_settings() -> set[str]:
    import dataclasses

    from bench.specs import TrainSpec

    return {field.name for field in dataclasses.fields(TrainSpec)}


def _get(table: Mapping[str, T], name: str, kind: str) -> T:
    if name not in table:
        raise LookupError(f"There is no {kind} '{name}'.{near_miss(name, table)}")
    return table[name]


def _load(package: str) -> None:
    if package in _loaded:
        return
    _loaded.add(package)  # before the import: a module that looks up another must not start again
    try:
        module = importlib.import_module(package)
    except BaseException:
        _loaded.discard(package)
        raise
    beside = Path(__file__).resolve().parent.parent
    found = Path(module.__file__ or "").resolve().parent.parent
    if found != beside:
        _loaded.discard(package)
        raise ImportError(
            f"`import {package}` found {found / package}, which does not lie beside the suite ({beside}). "
            f"Another package of that name comes first on sys.path: rename it or change the order."
        )
