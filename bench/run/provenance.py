"""Where a number came from: code, versions, machine, memory. Kept with each result and out of every key."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import re
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bench.data.splits import DataSource

PACKAGES = (
    "bayes-lora-bench",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "datasets",
    "numpy",
    "safetensors",
    "laplace-torch",
)
CODE = ("bench", "methods", "tasks", ":(exclude)bench/grids")  # what a result depends on; of a grid, its spec does


def provenance(device: torch.device, source: DataSource) -> dict[str, Any]:
    """Commit and dirty flag, package versions, device, host, threads, time and kind of data source."""
    return {
        "commit": _commit(),
        "dirty": _dirty(),
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "device": device_name(device),
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "host": platform.node(),
        "time": utc_now(),
        "data_from": "hub" if source.data_dir is None else "local mirror",
    }


def device_name(device: torch.device) -> str:
    """What the maker calls the GPU or the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def utc_now() -> str:
    """The time, as records show it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@functools.lru_cache
def _git(*arguments: str) -> str | None:
    """What git says in the folder above this package; None where it says nothing."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent.parent.parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _ours() -> bool:
    """Whether git tracks this very file, and not just some project that the suite was installed into."""
    return _git("ls-files", "--error-unmatch", "bench/run/provenance.py") is not None


def _commit() -> str | None:
    """The commit of the suite's checkout; None without one."""
    return _git("rev-parse", "HEAD") if _ours() else None


def _dirty() -> bool | None:
    """Whether the code differs from the commit; None without a checkout."""
    changes = _git("status", "--porcelain", "--", *CODE) if _ours() else None
    return None if changes is None else bool(changes)


@functools.lru_cache
def version(package: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.lru_cache
def _cpu_name() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or platform.machine()


class PeakMemory:
    """The most memory used since this object was made, in MiB: of the process, and of the accelerator."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        try:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: start the high-water mark anew
            self._resettable = True
        except OSError:
            self._resettable = False

    def read(self) -> dict[str, float | None]:
        """``host``: peak resident memory; ``device``: peak allocated on the accelerator, None on a CPU."""
        on_device = torch.cuda.max_memory_allocated(self._device) / 2**20 if self._device.type == "cuda" else None
        return {"host": self._host(), "device": on_device}

    def _host(self) -> float:
        if self._resettable:
            found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
            if found:
                return int(found.group(1)) / 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 1024
