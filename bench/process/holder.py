"""Holders of claims: who they are, whether they are alive, how to stop them. All that a claim says is checked."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import math
import os
import platform
import signal
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.process.reading import regular

SECONDS = 240.0  # a claim's life without a heartbeat
LONGEST = 7 * 86400.0  # the longest such life, a week
LARGEST_PID = 2**22  # Linux
MENTIONED = 200  # of so many evaluations a claim still fits its page
_BLANK = {"label": "a family", "host": "", "node": "", "job": "", "token": "", "machine": "", "restart": 0,
          "process": [0, ""], "runs": [], "seconds": SECONDS}  # fmt: skip
_NUMBERS = ("step", "steps", "fraction", "left", "restart")  # numbers that `bench status` computes with

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Worker:
    """Who works: shown by `bench status`, kept with every attempt, and used to see that a claim's holder is gone.

    Attributes:
        job: a name for the scheduler's job that no other job has or will have; "" outside one.
        restart: how often the scheduler has started that job again.
        node: what the scheduler calls the machine; the host's name by default.
    """

    job: str = ""
    restart: int = 0
    node: str = dataclasses.field(default_factory=platform.node)

    def describe(self) -> dict[str, Any]:
        """Host, job and visible GPUs, as records show them."""
        return {
            "host": platform.node(),
            "node": self.node,
            "job": self.job,
            "restart": self.restart,
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        }

    def outlived(self, holder: Mapping[str, Any]) -> bool:
        """Whether a claim's holder is certainly gone: a dead process of this machine, or this job's last start."""
        if self.job and holder["job"] == self.job and holder["restart"] < self.restart:
            return True
        pid, since = holder["process"]
        return bool(since) and bool(machine()) and holder["machine"] == machine() and started(pid) != since


def read_claims(folder: Path, limit: float = SECONDS) -> dict[str, dict[str, Any]]:
    """Name to content of all claims in a folder, each with its ``age`` in seconds and whether it is still ``alive``.

    ``limit``: seconds without a heartbeat after which any claim counts as dead. Unreadable claims are left out.
    """
    files = sorted(file for file in folder.glob("*.json") if file.is_file())
    if not files:
        return {}
    try:
        now = server_time(folder)
    except OSError:  # a store that may only be read
        now = time.time()
    found = {}
    for file in files:
        try:
            content = read_claim(file)
        except OSError as error:
            logger.warning("%s cannot be read (%s).", file, error.strerror)
            continue
        if content is not None:
            age = now - content.pop("touched")
            alive = abs(age) <= life(file, content, limit) and not Worker().outlived(content)  # not from the future
            found[file.stem] = {**content, "age": max(0.0, age), "alive": alive}
    return found


def ask_to_stop(file: Path) -> int | None:
    """Send SIGTERM to the process of this machine that holds a claim; its process id, or None if nobody was asked."""
    with contextlib.suppress(OSError):  # it has just ended, or is another user's
        content = read_claim(file)
        if content is not None and (pid := content["process"][0]) > 1:
            process = os.pidfd_open(pid)  # from here on, the number cannot come to mean another process
            try:
                if holds(file, content):
                    signal.pidfd_send_signal(process, signal.SIGTERM)
                    return int(pid)
            finally:
                os.close(process)
    return None


def holds(file: Path, content: Mapping[str, Any]) -> bool:
    """Whether the kernel confirms what a claim says of its holder.

    That is a process of this machine and user, started when the claim says, that has this very file open, as a holder
    does for as long as it works.
    """
    pid, since = content["process"]
    if pid <= 1 or not since or not machine() or content["machine"] != machine() or started(pid) != since:
        return False
    try:
        ours = file.stat()
        if Path(f"/proc/{pid}").stat().st_uid != os.getuid():
            return False
        return any(_same(descriptor, ours) for descriptor in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # it has just ended, or is another user's
        return False


def _same(descriptor: Path, file: os.stat_result) -> bool:
    try:
        found = descriptor.stat()
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (file.st_dev, file.st_ino)


def life(file: Path, content: Mapping[str, Any], limit: float) -> float:
    """Seconds without a heartbeat after which a claim is dead; at most ``limit`` unless the kernel knows its holder."""
    own = min(float(content["seconds"]), LONGEST)
    return own if own <= limit or holds(file, content) else limit


def mentioned(keys: Iterable[str]) -> list[str]:
    """The evaluations that a claim's holder computes, as the claim names them: shortened, none if there are many."""
    short = [name[:8] for name in keys]
    return short if len(short) <= MENTIONED else []


def covers(holder: Mapping[str, Any], keys: Iterable[str]) -> bool:
    """Whether a claim's holder is known to compute all these evaluations."""
    return {name[:8] for name in keys} <= set(holder["runs"])


def machine() -> str:
    """This boot of this machine and its space of process ids; "" where the system does not tell (not Linux)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def started(pid: int) -> str:
    """When a process of this machine was started, in the kernel's ticks; "" if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def read_claim(file: Path) -> dict[str, Any] | None:
    """The content of a claim, with its modification time as ``touched``; None when it is not there.

    Opened, not only looked at: a network file system asks the server again when a file is opened.
    """
    try:
        with regular(file).open("rb") as stream:
            text, touched = stream.read(), os.fstat(stream.fileno()).st_mtime
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return None
        if error.errno != errno.EINVAL:
            raise
        text, touched = b"", file.lstat().st_mtime  # a pipe, say: nobody's
    try:
        content = _checked({**_BLANK, "since": touched, **json.loads(text)})
    except (ValueError, TypeError, ArithmeticError, RecursionError):  # mid-write, or damaged: nobody's until it is old
        content = {**_BLANK, "since": touched}
    return {**content, "touched": touched}


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a claim, if every value that is used has its type and range.

    Raises:
        ValueError, TypeError: one has not.
    """
    pid, since = content["process"]
    numbers = [content["seconds"], content["since"], *(content.get(name) or 0 for name in _NUMBERS)]
    texts = [since, *content["runs"], *(value for value in content.values() if isinstance(value, str))]
    if not all(isinstance(content[name], type(blank)) for name, blank in _BLANK.items() if name != "seconds"):
        raise ValueError("a value of another type")
    if isinstance(pid, bool) or not isinstance(pid, int) or not isinstance(since, str) or not 0 <= pid <= LARGEST_PID:
        raise ValueError("no process")
    if not all(isinstance(number, int | float) and math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError("a number out of range")
    if not all(isinstance(text, str) and text.isprintable() for text in texts):
        raise ValueError("a text that cannot be shown")
    return {**content, "seconds": float(content["seconds"]), "since": float(content["since"])}


def server_time(folder: Path) -> float:
    """Now, by the clock of the file system that holds ``folder``."""
    probe = folder / f".now.{uuid.uuid4().hex[:8]}"
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        os.write(descriptor, b"\n")
        sync(descriptor)
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
        probe.unlink(missing_ok=True)


def sync(descriptor: int) -> None:
    """Sync a file where the file system does that: a claim only saves work."""
    with contextlib.suppress(OSError):
        os.fsync(descriptor)
