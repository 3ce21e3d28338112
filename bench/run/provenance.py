"""Provenance of a number: code, versions, machine, memory. Stored with each result and part of no key."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
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
CODE = ("bench", "methods", "tasks", ":(exclude)bench/grids")  # code that results depend on; grids enter through specs
ROOT = Path(__file__).resolve().parents[2]

logger = logging.getLogger(__name__)


def provenance(device: torch.device, source: DataSource) -> dict[str, Any]:
    """Commit and dirty flag, package versions, device, host, threads, time and kind of data source."""
    commit, dirty = code_state()
    return {
        "commit": commit,
        "dirty": dirty,
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
    """The vendor's name of the GPU or processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def utc_now() -> str:
    """The time, as records show it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def code_state() -> tuple[str | None, bool | None]:
    """The commit of the suite's checkout, and whether the code differs from it; (None, None) outside a checkout.

    The first answer is kept: a process runs the code that it started with. While git fails, it is asked again.
    """
    return repository_state(ROOT, "bench/run/provenance.py", CODE)


_known: dict[tuple[Path, str], tuple[str | None, bool | None]] = {}  # answers of git, by folder


def repository_state(folder: Path, own: str, code: Sequence[str]) -> tuple[str | None, bool | None]:
    """(commit, whether ``code`` differs from it) in a folder, if its repository tracks the file ``own``."""
    if (folder, own) not in _known:
        if not any((above / ".git").exists() for above in (folder, *folder.parents)):
            return None, None
        tracked = _git(folder, "ls-files", "--", own)
        if tracked == "":  # a repository of another project, which this was installed into
            return None, None
        commit, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--", *code)
        if tracked is None or commit is None or changes is None:
            _complain(folder)
            return commit, None
        _known[folder, own] = commit, bool(changes)
    return _known[folder, own]


@functools.cache
def _complain(folder: Path) -> None:
    logger.warning("git cannot say which commit %s is at: results are marked no-commit until it can.", folder)


def _git(folder: Path, *arguments: str) -> str | None:
    """The output of git in a folder; None if git refuses. A git that was killed or did not start is asked again."""
    command = ["git", *arguments]
    for pause in (0.1, 1.0, 0.0):
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=60)
        except FileNotFoundError:  # git is not installed
            return None
        except (OSError, subprocess.SubprocessError):
            done = None
        if done is not None and done.returncode >= 0:
            return done.stdout.strip() if done.returncode == 0 else None
        time.sleep(pause)
    return None


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
            Path("/proc/self/clear_refs").write_text("5")  # Linux: reset the high-water mark
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
