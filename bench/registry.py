"""Classes by name, and the modules that register them. Knows neither methods nor tasks: each kind has its registry."""

from __future__ import annotations

import importlib
import logging
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from bench.earlier import moved
from bench.errors import BrokenPlugin, near_miss, one_line

T = TypeVar("T")

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_RESERVED = {"lora", "per_task", "set", "include", "methods", "sweep", "main"}  # words of settings files
_SUITE = Path(__file__).resolve().parent.parent

logger = logging.getLogger(__name__)

__getattr__ = moved(
    __name__,
    {
        "get_method": "bench.method.get_method",
        "get_task": "bench.task.get_task",
        "method_names": "bench.method.method_names",
        "register_method": "bench.method.register_earlier_method",
        "register_task": "bench.task.register_task",
        "task_names": "bench.task.task_names",
    },
)


class Registry(Generic[T]):
    """The subclasses of one base by their ``name``. The package that registers ours is imported at the first look-up.

    Args:
        kind: what to call one of them in messages, such as ``"method"``.
        package: the top-level package next to ``bench`` whose import registers the suite's own.
        validate: raises BrokenPlugin for a class that breaks the interface; given the class and how to call it.
        reserved: names that mean something else in settings files.
    """

    def __init__(
        self, kind: str, package: str, validate: Callable[[type[T], str], None], reserved: Iterable[str] = ()
    ) -> None:
        self.kind, self.package = kind, package
        self._validate, self._reserved = validate, frozenset(_RESERVED.union(reserved))
        self._classes: dict[str, type[T]] = {}
        self._unlisted: set[str] = set()
        self._makers: dict[str, Callable[[type[T]], type[T] | None]] = {}
        self._made: dict[str, tuple[type[T], type[T]]] = {}  # derived name -> (the class it is made of, what is made)
        self._loaded = False

    def __contains__(self, name: str) -> bool:
        self._load()
        return name in self._classes or self._derived(name) is not None

    def derive(self, suffix: str, make: Callable[[type[T]], type[T] | None]) -> None:
        """Let ``<name><suffix>`` name what ``make`` makes of the class called ``name``, for each that is registered.

        Such classes are made when they are asked for; :meth:`names` does not list them. Where ``make`` returns None
        there is no such class. What was derived can be derived from again: ``tfb_adapter_ts``.
        """
        self._makers[suffix] = make

    def add(
        self, cls: type[T], replaces: Callable[[type[T], type[T]], bool] | None = None, listed: bool = True
    ) -> None:
        """Make a class known under its ``name``; defining it again, as in a notebook, replaces it.

        Args:
            listed: whether :meth:`names` lists it.
            replaces: whether the class, the first argument, may replace another of that name; by default none may.

        Raises:
            BrokenPlugin: the class breaks the interface, or its name is malformed or taken.
        """
        if not isinstance(cls, type):
            raise BrokenPlugin(f"register_{self.kind} got {cls!r}: it decorates a class.")
        where = _called(cls)
        if cls.__module__.partition(".")[0] != self.package:
            self._load()  # ours come first, so that it is the newcomer who is told that a name is taken
        name = getattr(cls, "name", None)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise BrokenPlugin(f"{where}: set `name` to lower-case letters, digits and underscores; it is {name!r}.")
        if name in self._reserved:
            raise BrokenPlugin(f"{where}: the name '{name}' is taken by a setting of the suite; choose another.")
        before = self._classes.get(name)
        clash = before is not None and _called(before) != where
        if before is not None and clash and not (replaces and replaces(cls, before)):
            raise BrokenPlugin(
                f"Two {self.kind}s are named '{name}': {_called(before)} and {where}. Rename one of them."
            )
        self._validate(cls, where)
        if before is None:
            self._check_derived(cls, name, where, replaces)
        if before is not None and clash:
            logger.warning("The %s '%s' is that of %s here, and not %s.", self.kind, name, where, _called(before))
        self._classes[name] = cls
        (self._unlisted.discard if listed else self._unlisted.add)(name)

    def get(self, name: str) -> type[T]:
        """The class of that name.

        Raises:
            LookupError: there is none; the message names the near misses.
        """
        self._load()
        found = self._classes.get(name) or self._derived(name)
        if found is None:
            raise LookupError(f"There is no {self.kind} '{name}'.{near_miss(name, self.names(), self._unlisted)}")
        return found

    def names(self) -> list[str]:
        """The names of all that are registered and listed, sorted."""
        self._load()
        return sorted(self._classes.keys() - self._unlisted)

    def unlisted(self) -> dict[str, str]:
        """Names beyond :meth:`names`, ``NAME<suffix>`` for those that are derived, and what each stands for."""
        self._load()
        found = {name: self._classes[name] for name in sorted(self._unlisted)}
        made = {f"NAME{suffix}": make for suffix, make in sorted(self._makers.items())}
        return {name: (of.__doc__ or "").strip().partition("\n")[0] for name, of in (found | made).items()}

    def _check_derived(
        self, cls: type[T], name: str, where: str, replaces: Callable[[type[T], type[T]], bool] | None
    ) -> None:
        """Refuse a class whose name is that of a derived one, or that would derive one of a registered name."""
        derived = self._derived(name)
        if derived is not None and replaces and replaces(cls, derived):
            logger.warning("The %s '%s' is that of %s here, and not %s.", self.kind, name, where, _called(derived))
        elif derived is not None:
            raise BrokenPlugin(
                f"Two {self.kind}s are named '{name}': {where} and one that the suite derives ({_called(derived)}). "
                "Rename yours."
            )
        for suffix, make in self._makers.items():
            taken = self._classes.get(name + suffix)
            made = make(cls) if taken is not None else None
            if taken is not None and made is not None and not (replaces and replaces(taken, made)):
                raise BrokenPlugin(
                    f"Two {self.kind}s are named '{name + suffix}': {_called(taken)} and one that the suite derives "
                    f"from {where}. Rename one of them."
                )

    def _derived(self, name: str) -> type[T] | None:
        for suffix, make in self._makers.items():
            if not name.endswith(suffix):
                continue
            stem = name.removesuffix(suffix)
            inner = self._classes.get(stem) or self._derived(stem)
            if inner is None:
                continue
            if name not in self._made or self._made[name][0] is not inner:
                made = make(inner)
                if made is None:
                    continue
                self._validate(made, _called(made))
                self._made[name] = inner, made
            return self._made[name][1]
        return None

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True  # before the import: a module that looks up another must not start again
        try:
            module = _import(self.package, f"The package '{self.package}'")
            found = Path(module.__file__ or "").resolve().parent.parent
            if found != _SUITE:
                raise ImportError(
                    f"`import {self.package}` found {found / self.package}, which does not lie next to the suite "
                    f"({_SUITE}). Another package of that name comes first on sys.path: rename it or change the order."
                )
        except BaseException:
            self._loaded = False
            raise


def load_plugin(module: str) -> None:
    """Import a module (``--plugin my_pkg.my_module``) whose decorators register methods or tasks.

    The working directory is searched too, so a file next to the grid is enough.

    Raises:
        LookupError: it is not the name of a module, or there is no such module.
        BrokenPlugin: its import raises anything, or ends the process; the message says where.
    """
    import_named(module, f"--plugin {module}")


def import_named(module: str, option: str) -> types.ModuleType:
    """The module that an ``option`` of the command line names; the working directory is searched too.

    Raises:
        LookupError, BrokenPlugin: as :func:`load_plugin`.
    """
    if not _MODULE.fullmatch(module) or module.endswith(".py"):
        raise LookupError(f"{option}: {module!r} is not a module name: write it as my_pkg.my_module, without .py.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return _import(module, option)
    except ModuleNotFoundError as error:
        raise LookupError(
            f"{option}: no such module. Run from the folder that holds it, or put it on PYTHONPATH."
        ) from error


def _import(module: str, called: str) -> types.ModuleType:
    """The module. Whatever its import raises becomes one sentence; its own absence stays a ModuleNotFoundError."""
    try:
        return importlib.import_module(module)
    except (BrokenPlugin, KeyboardInterrupt):
        raise
    except BaseException as error:  # of any kind, SystemExit too: the code is its author's
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise
        advice = "install it" if isinstance(error, ModuleNotFoundError) else "fix it; `bench --debug` shows the trace"
        raise BrokenPlugin(f"{called} cannot be imported ({one_line(error)}{_place(error)}): {advice}.") from error


def _place(error: BaseException) -> str:
    """The line of the plug-in's own code that raised the error, if one did."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    last = frames[-1] if frames else None
    return f", {Path(last.filename).name} line {last.lineno}" if last and last.filename != __file__ else ""


def _called(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
