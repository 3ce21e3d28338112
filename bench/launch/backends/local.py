"""Families one after the other, or by N worker processes that live as long as their parent; they share the GPUs."""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Collection, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from bench.launch.launcher import Order
from bench.launch.submission import read_submissions
from bench.process import gpus
from bench.process.claim import machine, read_claims
from bench.process.progress import Bar
from bench.process.stop import Stopped, StopRequest
from bench.run.worker import DONE, FAILED, HELD, STOPPED, Job, make_runner, work
from bench.specs import Family, FitSpec, RunSpec, build, to_json

POLL_SECONDS = 0.5  # between two looks at whether this process was asked to stop


def launch(order: Order) -> list[str]:
    """Compute the families here.

    Families that another process is at work on come last; then it is waited for.

    Raises:
        Stopped: a signal asked for it; every worker has left a checkpoint.
    """
    if order.dry_run:
        print("\n".join(f"{family.key}  {family.label}" for family in order.families))
        return []
    workers = min(order.workers, len(order.families))
    devices = _devices(order, workers)
    bar = Bar(order.title, len(order.families))
    try:
        return _parallel(order, devices, bar) if workers > 1 else _serial(order, bar)
    finally:
        bar.close()


def cancel(runs: Path, keys: Collection[str]) -> list[str]:
    """Ask the processes of this machine that are at work on these families to stop; say where the others are.

    SLURM's are left to its launcher. Nobody else can stop those of another scheduler.
    """
    claims = [held for family, held in read_claims(runs / "claims").items() if family in keys and held["alive"]]
    if not claims:
        return []
    slurm = {submission.id for submission in read_submissions(runs) if submission.launcher == "slurm"}
    lines = []
    for held in claims:
        job, label = held["job"], held["label"]
        if job.partition("/")[0] in slurm:
            continue
        if machine() and held["machine"] == machine():
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(held["process"][0], signal.SIGTERM)
            lines.append(f"{label}: asked process {held['process'][0]} to stop")
        else:
            lines.append(f"{label}: runs{f' as job {job}' if job else ''} on {held['host']}; stop it there")
    return lines


def _devices(order: Order, workers: int) -> list[str | None]:
    """``CUDA_VISIBLE_DEVICES`` for each worker; None leaves it as it is."""
    if workers <= 1 or order.job.device not in ("auto", "cuda"):
        return [None] * workers
    return gpus.assign(workers, order.families[0].root.model, order.job.model_path)


def _serial(order: Order, bar: Bar) -> list[str]:
    runner = make_runner(order.job, bar.log, order.stop)
    queue = collections.deque((family, False) for family in order.families)
    failures = []
    while queue:
        family, again = queue.popleft()
        kind, text = work(runner, family, lambda fraction, text, key=family.key: bar.update(key, fraction, text), again)  # type: ignore[misc]
        if kind == HELD:
            queue.append((family, True))
            bar.log(text)
            continue
        if kind == STOPPED:
            raise Stopped(text)
        if kind == FAILED:
            failures.append(text)
        bar.done(family.key, text, kind == DONE)
    return failures


def _parallel(order: Order, devices: list[str | None], bar: Bar) -> list[str]:
    pool = _Pool(order, bar)
    for device in devices:
        pool.start(device)
    return pool.run()


class _Pool:
    """Worker processes and the queue they are fed from."""

    def __init__(self, order: Order, bar: Bar) -> None:
        self._order, self._bar = order, bar
        self._queue = collections.deque((family, False) for family in order.families)
        self._busy: dict[Connection, Family | None] = {}
        self._processes: dict[Connection, Any] = {}
        self._failures: list[str] = []
        self._stopped = ""

    def start(self, device: str | None) -> None:
        """Start a worker and hand it a family."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_worker, args=(self._order.job, theirs), daemon=True)
        with _visible(device):
            process.start()
        theirs.close()
        self._processes[ours], self._busy[ours] = process, None
        self._give(ours)

    def run(self) -> list[str]:
        """Feed the workers until the queue is empty; returns the failures."""
        while self._busy:
            if self._order.stop() and not self._stopped:
                self._stop(self._order.stop())
            for pipe in wait(list(self._busy), POLL_SECONDS):
                assert isinstance(pipe, Connection)
                try:
                    self._hear(pipe, *pipe.recv())
                except (EOFError, ConnectionResetError):
                    self._died(pipe)
        if self._queue and not self._stopped:
            self._failures.append(
                f"{len(self._queue)} families were not started, because all workers had died. Run the command again."
            )
        for process in self._processes.values():
            process.join()
        if self._stopped:
            raise Stopped(self._stopped)
        return self._failures

    def _hear(self, pipe: Connection, kind: str, *rest: Any) -> None:
        family = self._busy[pipe]
        if kind == "log":
            self._bar.log(rest[0])
            return
        assert family is not None
        if kind == "at":
            self._bar.update(family.key, *rest)
            return
        if kind == HELD:
            self._queue.append((family, True))
            self._bar.log(rest[0])
        elif kind == STOPPED:
            self._bar.log(rest[0])
            self._stop(rest[0])
        else:
            if kind == FAILED:
                self._failures.append(rest[0])
            self._bar.done(family.key, rest[0], kind == DONE)
        self._give(pipe)

    def _give(self, pipe: Connection) -> None:
        """Hand the next family to a worker, or send it home."""
        if not self._queue or self._stopped:
            with contextlib.suppress(BrokenPipeError):
                pipe.send(None)
            del self._busy[pipe]
            return
        family, again = self._queue.popleft()
        self._busy[pipe] = family
        try:
            pipe.send((to_json(family.root), [to_json(run) for run in family.runs], again))
        except (BrokenPipeError, ConnectionResetError):  # it died idle: another worker takes the family
            self._queue.appendleft((family, again))
            self._busy[pipe] = None

    def _died(self, pipe: Connection) -> None:
        """A worker is gone: killed, or out of memory."""
        family, process = self._busy.pop(pipe), self._processes[pipe]
        process.join()
        if family is not None and not self._stopped:
            self._failures.append(
                f"{family.label}: its worker process died (exit code {process.exitcode}). Run the command again: it "
                "continues from the last checkpoint."
            )
            self._bar.done(family.key, self._failures[-1], False)

    def _stop(self, reason: str) -> None:
        """Ask every worker to stop at its next step."""
        if not self._stopped:
            self._stopped = reason
            for pipe in self._busy:
                self._processes[pipe].terminate()


@contextlib.contextmanager
def _visible(device: str | None) -> Iterator[None]:
    """``CUDA_VISIBLE_DEVICES`` for the processes started inside; set before they import anything."""
    if device is None:
        yield
        return
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = device
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _worker(job: Job, pipe: Connection) -> None:
    """A worker process: takes families from the pipe until None comes; ends at once when the parent is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and asks us to stop
    try:
        with StopRequest().installed() as stop:
            runner = make_runner(job, lambda text: pipe.send(("log", text)), stop)
            while (item := pipe.recv()) is not None:
                root, runs, again = item
                family = Family(build(FitSpec, root), tuple(build(RunSpec, run) for run in runs))
                pipe.send(work(runner, family, lambda fraction, text: pipe.send(("at", fraction, text)), again))
    except (EOFError, BrokenPipeError):
        return
    except Exception:
        traceback.print_exc(file=sys.stderr)
        raise
