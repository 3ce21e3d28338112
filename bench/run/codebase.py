"""Which code computed a result: the suite's files, plug-ins, and the libraries below."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from bench.run.provenance import PACKAGES, repository_state, version
from bench.store.facts import Plugin

_VERSION = re.compile(r"[0-9a-zA-Z][\w.+!-]{0,63}")
ROOT = Path(__file__).resolve().parent.parent.parent
NUMBERS = ("bench/*.py", "bench/specs", "bench/data", "bench/model", "bench/train", "bench/run", "methods", "tasks")
OURS = {"bench", "methods", "tasks", *sys.stdlib_module_names}


def identity(classes: Iterable[type]) -> dict[str, str]:
    """Everything that numbers depend on besides the spec, by name: hashes of the suite's code and plug-ins, versions.

    ``classes`` are the method, those it starts from, and the task.
    """
    found = {"the suite": _suite()}
    found |= {plugin.module: plugin.sha256 or "" for plugin in plugins(classes)}
    return found | {name: version(name) or "" for name in PACKAGES}


@functools.lru_cache(maxsize=1)
def _suite() -> str:
    """A hash of the files that the numbers may depend on; those that plan, launch, store and report are left out."""
    whole = hashlib.sha256()
    for pattern in NUMBERS:
        place = ROOT / pattern
        files = place.rglob("*.py") if place.is_dir() else ROOT.glob(pattern)
        for file in sorted(files):
            whole.update(f"{file.relative_to(ROOT)} {_sha256(file)}\n".encode())
    return whole.hexdigest()


def plugins(classes: Iterable[type]) -> tuple[Plugin, ...]:
    """The modules from outside the suite that define these classes or what they inherit, each once."""
    modules = {base.__module__ for cls in classes for base in cls.__mro__}
    return tuple(_plugin(name) for name in sorted(modules) if name.partition(".")[0] not in OURS)


@functools.lru_cache
def _plugin(name: str) -> Plugin:
    module = __import__(name, fromlist=["_"])
    try:
        file = Path(inspect.getfile(module)).resolve()
    except TypeError:  # a notebook's __main__ has no file
        return Plugin(module=name, sha256=None)
    stated = getattr(module, "__version__", None)
    commit, dirty = repository_state(file.parent, file.name, (file.name,))
    return Plugin(
        module=name,
        sha256=_sha256(file),
        version=stated if isinstance(stated, str) and _VERSION.fullmatch(stated) else None,
        commit=commit,
        dirty=dirty,
    )


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
