"""Claims: files that say who is at work on a family. They save work; correctness never depends on them.

A claim appears whole (a hard link to a finished file), its holder rewrites it every ``seconds / BEATS`` through an open
descriptor (so a heartbeat can never revive or overwrite another's claim), and whoever finds it older than ``seconds``
takes it away by renaming it. Its age is its modification time against that of a file just made beside it: two times of
one file server, so clocks that disagree between machines do not matter. No locks: they differ between file systems.

A claim is dead at once, whatever its age, when its process is known to be gone: it ran on this machine, or it is an
earlier start of the very job that asks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.process.stop import Stopped

SECONDS = 240.0  # a claim's life without a heartbeat
BEATS = 8  # heartbeats in that time
PAGE = 4096  # a claim is one page, so that a rewrite is one write
MENTIONED = 200  # of so many evaluations a claim still fits its page
_BLANK = {"label": "a family", "host": "", "node": "", "job": "", "token": "", "machine": "", "restart": 0,
          "process": [0, ""], "runs": [], "seconds": SECONDS}  # fmt: skip


class Held(Exception):
    """Another process is at work on it. ``holder`` is the content of its claim."""

    def __init__(self, text: str, holder: Mapping[str, Any]) -> None:
        super().__init__(text)
        self.holder = holder


class Lost(BaseException):
    """This process's claim was taken. Like ``Stopped``, no ``except Exception`` of a method may swallow it."""


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
        if self.job and holder.get("job") == self.job and int(holder.get("restart", 0)) < self.restart:
            return True
        pid, since = holder.get("process") or (0, "")
        return bool(machine()) and holder.get("machine") == machine() and started(pid) != since


class Claim:
    """A claim that is held. ``show`` puts something into it for `bench status`; ``lost`` says that it was taken."""

    def __init__(self, file: Path, descriptor: int, content: Mapping[str, Any], seconds: float) -> None:
        self.file = file
        self.lost = False
        self._descriptor = descriptor
        self._content = dict(content)
        self._every = seconds / BEATS
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"claim-{file.stem}", daemon=True)
        self._thread.start()

    def show(self, **content: Any) -> None:
        """Add ``content`` to what the next heartbeat writes."""
        self._content = {**self._content, **content}  # a new one: the heartbeat may be reading the old

    def release(self) -> None:
        """Give it up."""
        self._over.set()
        self._thread.join()
        os.close(self._descriptor)
        _remove(self.file, self._content["token"])

    def _beat(self) -> None:
        while not self._over.wait(self._every):
            try:
                os.pwrite(self._descriptor, _page(self._content), 0)
                os.fsync(self._descriptor)
                self.lost = (_read(self.file) or {}).get("token") != self._content["token"]
            except OSError as error:
                # deleted on the server: gone. Anything else may pass; if it does not, another takes the claim.
                self.lost = error.errno == errno.ESTALE
            if self.lost:
                return


@contextlib.contextmanager
def claim(
    file: Path,
    worker: Worker,
    *,
    seconds: float = SECONDS,
    wait: bool = True,
    about: Mapping[str, Any] | None = None,
    stop: Callable[[], str] = lambda: "",
) -> Iterator[Claim]:
    """Hold the claim ``file`` for the length of a with block.

    Args:
        seconds: how old this claim may become before another takes it.
        wait: wait while another process shows that it is alive, instead of raising :class:`Held`.
        about: what `bench status` should read in it.
        stop: why to stop waiting, as soon as there is a reason.

    Raises:
        Held: another process holds it and has just shown that it is alive.
        Stopped: there was a reason to stop.
    """
    held = _acquire(file, worker, seconds, wait, about or {}, stop)
    try:
        yield held
    finally:
        held.release()


def read_claims(folder: Path) -> dict[str, dict[str, Any]]:
    """Name to content of all claims in a folder, each with its ``age`` in seconds and whether it is still ``alive``."""
    files = sorted(file for file in folder.glob("*.json") if file.is_file())
    if not files:
        return {}
    try:
        now = _server_time(folder)
    except OSError:  # a store that may only be read
        now = time.time()
    found = {}
    for file in files:
        content = _read(file)
        if content is not None:
            age = max(0.0, now - content.pop("touched"))
            alive = age <= content["seconds"] and not Worker().outlived(content)
            found[file.stem] = {**content, "age": age, "alive": alive}
    return found


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


def _acquire(
    file: Path, worker: Worker, seconds: float, wait: bool, about: Mapping[str, Any], stop: Callable[[], str]
) -> Claim:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "token": uuid.uuid4().hex,
        "seconds": seconds,
        "since": time.time(),
        "machine": machine(),
        "process": [os.getpid(), started(os.getpid())],
        **worker.describe(),
        **about,
    }
    last: tuple[str, float] | None = None
    pause = 0.05
    while (descriptor := _create(file, content)) is None:
        holder = _read(file)
        if holder is None:
            continue  # given up between the two looks
        seen = (holder["token"], holder["touched"])
        if worker.outlived(holder) or _server_time(file.parent) - holder["touched"] > holder["seconds"]:
            _remove(file, holder["token"])
            continue
        if not wait and last is not None and seen != last:
            by = f" by {holder['job']}" if holder["job"] else ""
            raise Held(f"{file.stem} is being computed on {holder['node']}{by}", holder)
        if reason := stop():
            raise Stopped(f"{reason}: stopped while another process was at work on {file.stem}")
        last = seen
        time.sleep(pause)
        pause = min(pause * 1.5, seconds / BEATS, 5.0)
    return Claim(file, descriptor, content, seconds)


def _create(file: Path, content: Mapping[str, Any]) -> int | None:
    """An open descriptor of the new claim; None when there is one already."""
    draft = file.with_name(f".{file.name}.{content['token'][:8]}")
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    try:
        os.write(descriptor, _page(content))
        os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(draft, file)
        # not the link's own answer: a file server that repeats a request refuses what it has just done
        if os.fstat(descriptor).st_nlink == 2:
            return os.dup(descriptor)
    except PermissionError:  # EPERM: a file system without hard links; there the claim appears before its content
        with contextlib.suppress(FileExistsError):
            other = os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
            os.write(other, _page(content))
            return other
    finally:
        os.close(descriptor)
        draft.unlink()
    return None


def _remove(file: Path, token: str) -> bool:
    """Take away the claim with that token, and no other that may have come into its place."""
    aside = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.old")
    try:
        file.rename(aside)
    except FileNotFoundError:
        return False
    found = _read(aside)
    ours = found is None or found["token"] == token
    if not ours:  # a new holder came between the look and the rename: it gets its place back
        with contextlib.suppress(FileExistsError):
            os.link(aside, file)
    aside.unlink(missing_ok=True)
    return ours


def _read(file: Path) -> dict[str, Any] | None:
    """The content of a claim, with its modification time as ``touched``; None when it is not there.

    Opened, not only looked at: opening a file is when a network file system asks the server anew.
    """
    try:
        with file.open("rb") as stream:
            text, touched = stream.read(), os.fstat(stream.fileno()).st_mtime
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return None
        raise
    try:
        content = {**_BLANK, **json.loads(text)}
        pid, _ = content["process"]
        content |= {"seconds": float(content["seconds"]), "since": float(content.get("since", touched))}
        if not isinstance(pid, int) or not all(isinstance(content[name], type(_BLANK[name])) for name in _BLANK):
            raise ValueError
    except (ValueError, TypeError):  # caught in mid-write, or damaged: nobody's until it is old
        content = {**_BLANK, "since": touched}
    return {**content, "touched": touched}


def _server_time(folder: Path) -> float:
    """Now, by the clock of the file system that holds ``folder``."""
    probe = folder / f".now.{uuid.uuid4().hex[:8]}"
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        os.write(descriptor, b"\n")
        os.fsync(descriptor)
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
        probe.unlink(missing_ok=True)


def _page(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, sort_keys=True)
    if len(text) >= PAGE:
        raise ValueError(f"A claim holds less than {PAGE} characters; this one has {len(text)}.")
    return (text.ljust(PAGE - 1) + "\n").encode()
