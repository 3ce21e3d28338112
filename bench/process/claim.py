"""Claims: files that say who is at work on a family. They save work; correctness never depends on them.

A claim appears whole (a hard link to a finished file), its holder rewrites it ``BEATS`` times in ``seconds``, at least
every 30 seconds, through an open descriptor (so a heartbeat can never revive or overwrite another's claim), and a
process that finds it older than ``seconds`` renames it away. Its age is its modification time against that of a file
just made in the same folder: two times of one file server, so clocks that disagree between machines do not matter. No
locks: they differ between file systems.

A claim is dead at once, whatever its age, when its process is known to be gone: it ran on this machine, or it is an
earlier start of the very job that asks. Nobody waits longer than their own ``seconds`` without a sign of life, whatever
the claim says and whenever it was written (a claim from the future is old), unless the kernel knows its holder.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.process.holder import (
    LONGEST,
    SECONDS,
    Worker,
    life,
    machine,
    read_claim,
    read_claims,
    server_time,
    started,
    sync,
)
from bench.process.stop import Stopped

BEATS = 8  # heartbeats in the life of a claim
PAGE = 4096  # a claim is one page, so that a rewrite is one write


logger = logging.getLogger(__name__)


class Held(Exception):
    """Another process is at work on it. ``holder`` is the content of its claim."""

    def __init__(self, text: str, holder: Mapping[str, Any]) -> None:
        super().__init__(text)
        self.holder = holder


class Lost(BaseException):
    """This process's claim was taken. Like ``Stopped``, no ``except Exception`` of a method may swallow it."""


class Claim:
    """A claim that is held. ``show`` puts something into it for `bench status`; ``lost`` says that it was taken."""

    def __init__(self, file: Path, descriptor: int, content: Mapping[str, Any], seconds: float) -> None:
        self.file = file
        self.lost = False
        self._descriptor = descriptor
        self._content = dict(content)
        self._every = min(seconds, SECONDS) / BEATS  # others judge by their own seconds, which may be fewer
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"claim-{file.stem}", daemon=True)
        self._thread.start()

    def show(self, **content: Any) -> None:
        """Add ``content`` to what the next heartbeat writes."""
        self._content = {**self._content, **content}  # a new one: the heartbeat may be reading the old

    def release(self) -> None:
        """Release it."""
        self._over.set()
        self._thread.join()
        os.close(self._descriptor)
        _remove(self.file, self._content["token"])

    def _beat(self) -> None:
        while not self._over.wait(self._every):
            try:
                os.pwrite(self._descriptor, _page(self._content), 0)
                sync(self._descriptor)
                self.lost = (read_claim(self.file) or {}).get("token") != self._content["token"]
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
        ValueError: ``seconds`` is not a number of seconds.
        Held: another process holds it and has just shown that it is alive.
        Stopped: there was a reason to stop.
    """
    if not 0 < seconds <= LONGEST:  # NaN too
        raise ValueError(f"A claim cannot live {seconds} seconds: choose more than 0 and at most {LONGEST:.0f}.")
    held = _acquire(file, worker, seconds, wait, about or {}, stop)
    try:
        yield held
    finally:
        held.release()


def sweep_claims(folder: Path, limit: float, finished: Callable[[str], bool]) -> None:
    """Remove the dead claims on families that are ``finished``. Others tell `bench status` whose process is gone."""
    for name, content in read_claims(folder, limit).items():
        if not content["alive"] and finished(name):
            _remove(folder / f"{name}.json", content["token"])


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
    seen: tuple[str, float] | None = None
    first, since, pause = True, time.monotonic(), 0.05
    while (descriptor := _create(file, content)) is None:
        holder = read_claim(file)
        if holder is None:  # released between the two looks, or a link that leads nowhere
            if reason := stop():
                raise Stopped(f"{reason}: stopped while waiting for {file}")
            if file.is_symlink():
                _remove(file, "")
            continue
        last, seen = seen, (holder["token"], holder["touched"])
        if seen != last:
            since = time.monotonic()
        age, watched = server_time(file.parent) - holder["touched"], time.monotonic() - since
        limit = life(file, holder, seconds)
        if worker.outlived(holder) or abs(age) > limit or watched > limit:  # a claim from the future is old
            _remove(file, holder["token"])
            continue
        if not wait and last is not None and seen != last:
            by = f" by {holder['job']}" if holder["job"] else ""
            raise Held(f"{file.stem} is being computed on {holder['node']}{by}", holder)
        if reason := stop():
            raise Stopped(f"{reason}: stopped while another process was at work on {file.stem}")
        if first:
            logger.info(_waiting(file, holder, limit - max(age, watched)))
        first = False
        time.sleep(pause)
        pause = min(pause * 1.5, seconds / BEATS, 5.0)
    return Claim(file, descriptor, content, seconds)


def _waiting(file: Path, holder: Mapping[str, Any], left: float) -> str:
    """One line about whom is waited for, and until when."""
    pid = holder["process"][0]
    who = f"job {holder['job']}" if holder["job"] else f"process {pid}" if pid else "another process"
    where = f" on {holder['node']}" if holder["node"] else ""
    until = time.strftime("%H:%M:%S", time.localtime(time.time() + left))
    return (
        f"waiting for {who}{where}, which claims {holder['label']} ({file.stem}): until it is done, or until {until} "
        "if it shows no sign of life"
    )


def _create(file: Path, content: Mapping[str, Any]) -> int | None:
    """An open descriptor of the new claim; None when there is one already."""
    draft = file.with_name(f".{file.name}.{content['token'][:8]}")
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    try:
        os.write(descriptor, _page(content))
        sync(descriptor)
        refused = False
        try:
            os.link(draft, file)
        except FileExistsError:
            pass
        except OSError:  # EPERM, ENOTSUP, ENOSYS, EMLINK, ...: a file system without hard links says it in its own way
            refused = True
        # not the link's own answer: a file server that repeats a request refuses what it has just done
        if os.fstat(descriptor).st_nlink == 2:
            return os.dup(descriptor)
        if refused:  # then the claim appears before its content
            with contextlib.suppress(FileExistsError):
                other = os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
                os.write(other, _page(content))
                return other
    finally:
        os.close(descriptor)
        draft.unlink(missing_ok=True)
    return None


def _remove(file: Path, token: str) -> bool:
    """Remove the claim with that token, and no other that may have come into its place."""
    aside = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}.old")
    try:
        file.rename(aside)
    except FileNotFoundError:
        return False
    found = read_claim(aside)
    ours = found is None or found["token"] == token
    if not ours:  # a new holder came between the look and the rename: it gets its place back
        with contextlib.suppress(FileExistsError):
            os.link(aside, file)
    aside.unlink(missing_ok=True)
    return ours


def _page(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, sort_keys=True)
    if len(text) >= PAGE:
        raise ValueError(f"A claim holds less than {PAGE} characters; this one has {len(text)}.")
    return (text.ljust(PAGE - 1) + "\n").encode()
