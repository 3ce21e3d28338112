"""Common code of tools/time_*.py: contestants take turns in one process, and the result is a JSON file.

A file holds the question, machine, versions and settings; for each contestant the seconds of every round (median and
range); and ratios, each the median and range of the ratios within the rounds, so that a busy machine hits both sides.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "peft", "laplace-torch", "ivon-opt")


@dataclasses.dataclass(frozen=True)
class Ratio:
    """``what`` divided by ``against``, both names of contestants; ``target``: the largest that was aimed at."""

    what: str
    against: str
    target: float | None = None


def take_turns(
    ways: Mapping[str, Callable[[], Any]],
    rounds: int,
    warm: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each way in each of ``rounds`` rounds, after ``warm`` rounds that do not count.

    ``time.process_time`` as the ``clock`` of ways that keep one thread busy does not count other processes' turns.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(warm + rounds):
        for name, way in ways.items():
            began = clock()
            way()
            if number >= warm:
                seconds[name].append(clock() - began)
    return seconds


def compared(seconds: Mapping[str, Sequence[float]], ratio: Ratio) -> dict[str, Any]:
    """A ratio as the file has it."""
    each = [a / b for a, b in zip(seconds[ratio.what], seconds[ratio.against], strict=True)]
    return {**dataclasses.asdict(ratio), **_spread(each)}


def report(
    file: Path | None,
    question: str,
    seconds: Mapping[str, Sequence[float]],
    ratios: Sequence[Ratio] = (),
    settings: Mapping[str, Any] | None = None,
    further: Mapping[str, float] | None = None,
    tables: Mapping[str, Any] | None = None,
) -> None:
    """Print what was measured, and write it to ``file`` if there is one.

    ``further``: figures that are not seconds; ``tables``: what one script adds, under names that the page knows.
    """
    found = {
        "question": question,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "settings": dict(settings or {}),
        "seconds": {name: _spread(values) for name, values in seconds.items()},
        "ratios": [compared(seconds, ratio) for ratio in ratios],
        "further": dict(further or {}),
        **(tables or {}),
    }
    for name, one in found["seconds"].items():
        print(f"{name:44}{1e3 * one['median']:12.1f} ms  ({1e3 * one['min']:.1f} to {1e3 * one['max']:.1f})")
    for one in found["ratios"]:
        print(f"{one['what']} / {one['against']}: {one['median']:.2f} ({one['min']:.2f} to {one['max']:.2f})")
    for name, value in found["further"].items():
        print(f"{name}: {value:.1f}")
    for name, table in (tables or {}).items():
        print(f"{name}: {json.dumps(table)}")
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n")


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": len(values)}


def children_time() -> float:
    """Seconds of processor time of all processes that were started here and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def machine() -> dict[str, Any]:
    """The processor, and how busy the machine was."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }


def _lines(file: str) -> list[str]:
    return Path(file).read_text().splitlines() if Path(file).exists() else []


def versions() -> dict[str, str]:
    """Versions of the libraries that are compared."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
