"""Worker processes of one machine, fed with families over pipes. They never outlive their parent.

A worker is asked to stop with SIGTERM, between two steps or while it waits for a family. Whatever happens to the pipe
or to the display at its other end, the work in the worker sees a request to stop at most: it leaves a checkpoint and no
failure.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from bench.launch.launcher import Order
from bench.process.console import shown
from bench.process.progress import Bar
from bench.process.stop import StopRequest
from bench.run.execution import Execution
from bench.run.worker import Outcome, make_runner, work
from bench.specs import Family, FitSpec, RunSpec, build, to_json
from bench.store.store import Store

POLL_SECONDS = 0.5  # between two looks at whether this process was asked to stop
LOG, PROGRESS, END = "log", "progress", "end"  # messages from a worker

logger = logging.getLogger(__name__)


class Pool:
    """Worker processes and the queue they are fed from."""

    def __init__(self, order: Order, bar: Bar) -> None:
        self._order, self._bar = order, bar
        self._queue = collections.deque((family, False) for family in order.families)
        self._busy: dict[Connection, Family | None] = {}
        self._processes: dict[Connection, Any] = {}
        self._failures: list[str] = []
        self._stopping = False
        self._interrupted = False  # some family was stopped before its end
        self._blocked = False

    def run(self, devices: Sequence[str | None]) -> list[str]:
        """Start a worker on each device and feed them until the queue is empty; returns the failures.

        Raises:
            Stopped: a signal asked for it; every worker has left a checkpoint.
        """
        try:
            for device in devices:
                self._start(device)
            while self._busy:
                if self._order.stop() and not self._stopping:
                    self._bar.log(f"{self._order.stop()}: the workers stop after their current step")
                    self._stop()
                for pipe in wait(list(self._busy), POLL_SECONDS):
                    assert isinstance(pipe, Connection)
                    try:
                        self._hear(pipe, *pipe.recv())
                    except (EOFError, OSError):
                        self._died(pipe)
        finally:
            self._end()
        if self._order.stop() and (self._queue or self._interrupted):
            raise self._order.stop.stopped(f"{self._order.stop()}: every worker has stopped")
        if self._queue:
            why = "nothing more can be written" if self._blocked else "all workers had died"
            left = f"{len(self._queue)} families were not started"
            self._failures.append(f"{left}, because {why}. Run the command again.")
        return self._failures

    def _start(self, device: str | None) -> None:
        """Start a worker and hand it a family."""
        context = forked_after_imports() if device is None else multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_worker, args=(self._order.store, self._order.execution, theirs), daemon=True)
        with _visible(device), _deaf_to_interrupts():
            process.start()
        theirs.close()
        self._processes[ours], self._busy[ours] = process, None
        self._give(ours)

    def _hear(self, pipe: Connection, kind: str, *rest: Any) -> None:
        family = self._busy[pipe]
        if kind == LOG:
            self._bar.log(rest[0])
            return
        assert family is not None
        if kind == PROGRESS:
            self._bar.update(family.key, *rest)
            return
        outcome, text = rest
        self._busy[pipe] = None
        if outcome == Outcome.HELD:
            self._queue.append((family, True))
            self._bar.log(text)
        elif outcome == Outcome.STOPPED:
            self._interrupted = True
        else:
            self._bar.done(family.key, text, outcome == Outcome.DONE)
        if outcome in (Outcome.FAILED, Outcome.BLOCKED):
            self._failures.append(text)
        if outcome == Outcome.BLOCKED:
            self._blocked = True
            self._stop()
        self._give(pipe)

    def _give(self, pipe: Connection) -> None:
        """Hand the next family to a worker, or send it home."""
        if not self._queue or self._stopping:
            with contextlib.suppress(OSError):
                pipe.send(None)
            del self._busy[pipe]
            return
        family, again = self._queue.popleft()
        self._busy[pipe] = family
        try:
            pipe.send((to_json(family.root), [to_json(run) for run in family.runs], again))
        except OSError:  # it died idle: another worker takes the family
            self._queue.appendleft((family, again))
            self._busy[pipe] = None

    def _died(self, pipe: Connection) -> None:
        """A worker is gone: killed, or out of memory."""
        family, process = self._busy.pop(pipe), self._processes[pipe]
        process.join()
        self._interrupted |= family is not None
        if family is not None and not self._stopping:
            self._failures.append(
                f"{family.label}: its worker process died (exit code {process.exitcode}). Run the command again: it "
                "continues from the last checkpoint."
            )
            self._bar.done(family.key, self._failures[-1], False)

    def _stop(self) -> None:
        """Ask every worker that still has work to stop at its next step."""
        self._stopping = True
        for pipe in self._busy:
            self._processes[pipe].terminate()

    def _end(self) -> None:
        """Wait for every worker to end. If some still work, an error ends this process, and they are asked to stop."""
        impatient = isinstance(sys.exception(), KeyboardInterrupt)  # the second Ctrl-C
        self._stop()
        for pipe in self._processes:
            pipe.close()
        try:
            for process in self._processes.values():
                process.kill() if impatient else None
                process.join()
        except KeyboardInterrupt:
            for process in self._processes.values():
                process.kill()
            raise


def forked_after_imports() -> Any:
    """Workers forked from a server that has imported torch and transformers once for all of them.

    Only where no GPU is visible: a process that is forked after its parent has begun to use CUDA cannot use it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.launch.imports"])
    return context


def import_ahead() -> None:
    """Start the server that workers are forked from: it imports while this process checks what they will need."""
    forked_after_imports()
    with _deaf_to_interrupts():
        forkserver.ensure_running()


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


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started inside never hear Ctrl-C, from their first instruction on: their parent does, and asks them.

    That holds for the server that workers are forked from, too. The resource tracker is started before: its start
    lifts the block.
    """
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Channel:
    """A worker's end of its pipe. ``gone`` once nobody listens: then the work should stop."""

    def __init__(self, pipe: Connection, stop: StopRequest) -> None:
        self._pipe, self._stop = pipe, stop
        self.gone = False

    def send(self, *message: Any) -> None:
        """Send a message, if there is somebody to hear it."""
        try:
            self._pipe.send(message)
        except OSError:
            self.gone = True

    def receive(self) -> Any:
        """The next family; None when there is no more work, or no more time for it."""
        try:
            while not self._pipe.poll(POLL_SECONDS):
                if self.reason():
                    return None
            return self._pipe.recv()
        except (EOFError, OSError):
            self.gone = True
            return None

    def reason(self) -> str:
        """The reason to stop; "" if there is none."""
        return self._stop() or ("its parent has ended" if self.gone else "")


def end_with_parent() -> None:
    """Let this process end at once when the one that started it does, however that ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _worker(store: Store, execution: Execution, pipe: Connection) -> None:
    """A worker process: takes families from the pipe until None comes; ends at once when the parent is gone."""
    end_with_parent()
    with StopRequest().installed() as stop:
        channel = _Channel(pipe, stop)
        with shown(lambda text: channel.send(LOG, text)):
            try:
                runner = make_runner(store, execution, channel.reason)
            except (LookupError, ValueError, OSError, ImportError) as error:
                logger.error("A worker cannot start (%s: %s).", type(error).__name__, error)
                sys.exit(1)
            while (item := channel.receive()) is not None:
                root, runs, again = item
                family = Family(build(FitSpec, root), tuple(build(RunSpec, run) for run in runs))
                channel.send(END, *work(runner, family, functools.partial(channel.send, PROGRESS), again))
