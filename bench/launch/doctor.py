"""``bench doctor``: whether this machine is ready, line by line: what works, what to know, and how to fix the rest."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import importlib.metadata
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bench.errors import one_line
from bench.process.text import counted

if TYPE_CHECKING:
    from bench.plan.grid import Grid

OLDEST = (3, 11)
LITTLE_MEMORY, LITTLE_DISK = 4 * 2**30, 2**30  # bytes
HUB_SECONDS = 5.0


class Verdict(enum.StrEnum):
    """OK: works. NOTE: works within a limit. FIX: something that was asked for will fail."""

    OK = "ok"
    NOTE = "note"
    FIX = "fix"


@dataclasses.dataclass(frozen=True)
class Finding:
    """The outcome of one check: what was looked at, and what was found, with the fix where there is one to make."""

    name: str
    verdict: Verdict
    text: str

    def __str__(self) -> str:
        return f"{self.verdict:5} {self.name:13} {self.text}"


def examine(runs: Path, read: Callable[[], Grid] | None = None) -> Iterator[Finding]:
    """Check this machine, each finding as soon as it is known.

    Args:
        runs: the store that results will go to.
        read: reads the grid to check the machine for, or None.
    """
    grid: Grid | None = None
    if read is not None:
        try:
            grid = read()
            count = len(grid.families())
            yield Finding("grid", Verdict.OK, f"{grid.name}: {counted(count, 'family', 'families')}")
        except Exception as error:  # of any kind: the other checks may tell why
            grid = None
            yield Finding("grid", Verdict.FIX, str(error))
    for check in CHECKS:
        name = check.__name__.strip("_")
        try:
            found = check(runs, grid)
        except Exception as error:  # a check that breaks is a finding, too
            found = Finding(name, Verdict.FIX, f"cannot be checked ({one_line(error)})")
        if found is not None:
            yield found


def _python(runs: Path, grid: Grid | None) -> Finding:
    if sys.version_info[:2] < OLDEST:
        return Finding("Python", Verdict.FIX, f"{platform.python_version()}: install 3.11 or later")
    return Finding("Python", Verdict.OK, f"{platform.python_version()}, {platform.system()} {platform.machine()}")


def _packages(runs: Path, grid: Grid | None) -> Finding:
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("bayes-lora-bench") or []
    except importlib.metadata.PackageNotFoundError:
        return Finding("packages", Verdict.NOTE, "the suite is not installed, so its requirements are not known")
    wanted = [Requirement(line) for line in lines]
    lacking = []
    for each in (one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})):
        try:
            found = importlib.metadata.version(each.name)
        except importlib.metadata.PackageNotFoundError:
            lacking.append(f"{each.name} (missing)")
            continue
        if not each.specifier.contains(found, prereleases=True):
            lacking.append(f"{each.name} {found} (needs {each.specifier})")
    if lacking:
        return Finding("packages", Verdict.FIX, f"{', '.join(lacking)}: pip install --upgrade bayes-lora-bench")
    return Finding("packages", Verdict.OK, "all requirements are met")


def _accelerator(runs: Path, grid: Grid | None) -> Finding:
    import torch

    version = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        cards = []
        for number in range(torch.cuda.device_count()):
            free, total = (size / 2**30 for size in torch.cuda.mem_get_info(number))
            cards.append(f"{torch.cuda.get_device_name(number)}, {free:.0f} of {total:.0f} GiB free")
        return Finding("accelerator", Verdict.OK, f"{version}, CUDA {torch.version.cuda}: {'; '.join(cards)}")
    if shutil.which("nvidia-smi"):
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        return Finding(
            "accelerator",
            Verdict.FIX,
            f"{version}, {built}, sees no GPU, and nvidia-smi is here: install a CUDA build of torch that the driver "
            "supports, or check CUDA_VISIBLE_DEVICES",
        )
    return Finding(
        "accelerator", Verdict.NOTE, f"{version}, no GPU: the CPU is enough for small bases such as the embedded one"
    )


def _quantization(runs: Path, grid: Grid | None) -> Finding | None:
    from bench.model.quantization import import_bitsandbytes

    needed = grid is not None and grid.model.quantization != "none"
    try:
        import_bitsandbytes()
        version = importlib.metadata.version("bitsandbytes")
    except Exception as error:  # its import runs code that looks for CUDA
        return Finding(
            "bitsandbytes",
            Verdict.FIX if needed else Verdict.NOTE,
            f"cannot be imported ({one_line(error)}): pip install bitsandbytes, or use --quantization none",
        )
    return Finding("bitsandbytes", Verdict.OK, f"{version}: --quantization int8 and nf4")


def _laplace(runs: Path, grid: Grid | None) -> Finding:
    try:
        importlib.import_module("laplace")
        return Finding("laplace-torch", Verdict.OK, importlib.metadata.version("laplace-torch"))
    except Exception as error:
        return Finding(
            "laplace-torch",
            Verdict.NOTE,
            f"cannot be imported ({one_line(error)}): pip install laplace-torch, and uninstall torchvision if that is "
            "what fails",
        )


def _hub(runs: Path, grid: Grid | None) -> Finding:
    from huggingface_hub import constants, get_token

    data_dir = grid.source.data_dir if grid is not None else None
    mirror = f"; datasets come from the mirror {data_dir}" if data_dir is not None else ""
    if data_dir is not None and not data_dir.is_dir():
        return Finding("hub", Verdict.FIX, f"there is no folder {data_dir}, which data_dir names")
    if constants.HF_HUB_OFFLINE:
        return Finding("hub", Verdict.NOTE, f"HF_HUB_OFFLINE is set: only what is cached can be used{mirror}")
    host = urlsplit(constants.ENDPOINT)
    try:
        socket.create_connection((host.hostname or "", host.port or 443), HUB_SECONDS).close()
    except OSError as error:
        return Finding(
            "hub",
            Verdict.NOTE,
            f"{constants.ENDPOINT} cannot be reached ({one_line(error)}): use the embedded base, folders (--model, "
            f"--data-dir), or what is cached{mirror}",
        )
    token = "a token is stored" if get_token() else "no token: run `hf auth login` for gated models"
    return Finding("hub", Verdict.OK, f"{constants.ENDPOINT} answers; {token}{mirror}")


def _model(runs: Path, grid: Grid | None) -> Finding | None:
    if grid is None:
        return None
    name = grid.model.id
    if name == "embedded" or grid.model_path is not None:
        return Finding("model", Verdict.OK, f"{grid.model_path or name}: its files are here")
    from huggingface_hub import auth_check, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    cached = isinstance(try_to_load_from_cache(name, "config.json", revision=grid.model.revision), str)
    if cached:
        return Finding("model", Verdict.OK, f"{name} is in the cache")
    try:
        auth_check(name)
    except GatedRepoError:
        advice = f"accept its licence at https://huggingface.co/{name} and run `hf auth login`"
        return Finding("model", Verdict.FIX, f"{name} is gated: {advice}")
    except RepositoryNotFoundError:
        return Finding("model", Verdict.FIX, f"{name} is not on the hub, or is private: check the name and the token")
    except Exception as error:  # no network, most likely
        return Finding(
            "model",
            Verdict.FIX,
            f"{name} is not in the cache, and the hub does not answer ({one_line(error)}): fetch it where there is a "
            f"network (`hf download {name}`), or name a folder with --model",
        )
    return Finding("model", Verdict.OK, f"{name} can be downloaded")


def _data(runs: Path, grid: Grid | None) -> Finding | None:
    if grid is None:
        return None
    from bench.data.protocol import splits_for
    from bench.data.splits import load_split
    from bench.task import get_task

    wrong = []
    for name in grid.all_tasks:
        task = get_task(name)
        reported = splits_for(grid.protocol, task).reported
        try:
            for split in ("train", reported) if name in grid.tasks else (reported,):
                load_split(task, split, grid.source)
        except Exception as error:  # of any kind: each task has its own finding
            wrong.append(f"{name}: {error}")
    if wrong:
        return Finding("data", Verdict.FIX, " ".join(wrong))
    return Finding("data", Verdict.OK, f"{', '.join(grid.all_tasks)}: all rows are there")


def _launchers(runs: Path, grid: Grid | None) -> Finding:
    from bench.launch.launcher import get_launcher, launcher_names

    lacking = {name: get_launcher(name).lacking() for name in launcher_names()}
    usable = ", ".join(name for name, why in lacking.items() if not why)
    rest = "".join(f"; not {name}: {why}" for name, why in lacking.items() if why)
    return Finding("launchers", Verdict.NOTE if rest else Verdict.OK, f"{usable}{rest}")


def _store(runs: Path, grid: Grid | None) -> Finding:
    from bench.store.store import Store

    try:
        Store(runs).check_writable()
    except OSError as error:
        return Finding("store", Verdict.FIX, str(error))
    return Finding("store", Verdict.OK, f"{runs} can be written to")


def _memory(runs: Path, grid: Grid | None) -> Finding | None:
    free = _free_memory()
    if free is None:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"{free / 2**30:.1f} GiB free, {cores} CPU cores"
    if free < LITTLE_MEMORY:
        return Finding("memory", Verdict.NOTE, f"{text}: enough for the embedded base and --workers 1")
    return Finding("memory", Verdict.OK, text)


def _free_memory() -> int | None:
    """Bytes that a new process could use; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kib = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
    return None if kib is None else kib * 1024


def _disk(runs: Path, grid: Grid | None) -> Finding:
    place = next(folder for folder in (runs.absolute(), *runs.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    text = f"{free / 2**30:.1f} GiB free at {place}"
    if free < LITTLE_DISK:
        return Finding("disk", Verdict.FIX, f"{text}: make room, or choose another place with --runs")
    return Finding("disk", Verdict.OK, text)


def _terminal(runs: Path, grid: Grid | None) -> Finding | None:
    encoding = getattr(sys.stdout, "encoding", None) or ""
    if encoding.lower().replace("-", "").startswith("utf"):
        return None
    return Finding("terminal", Verdict.NOTE, f"its encoding is {encoding}: letters it lacks are shown as \\u codes")


CHECKS = (
    _python,
    _packages,
    _accelerator,
    _quantization,
    _laplace,
    _hub,
    _model,
    _data,
    _launchers,
    _store,
    _memory,
    _disk,
    _terminal,
)
