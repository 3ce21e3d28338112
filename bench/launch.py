"""The local launcher: families one after the other, or by N worker processes that live as long as their parent."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from bench.data import DataSource
from bench.plan import Family
from bench.progress import Bar, FamilyProgress
from bench.specs import FitSpec, RunSpec, build, to_json


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker needs to know besides its families; plain values, so it can be sent to a process."""

    runs: Path
    source: DataSource = dataclasses.field(default_factory=DataSource)
    model_path: Path | None = None
    device: str = "auto"
    threads: int = 1
    eval_every: int = 0
    checkpoint_seconds: float = 30.0
    plugins: tuple[str, ...] = ()


def launch(job: Job, families: Sequence[Family], workers: int, title: str) -> list[str]:
    """Compute all that is missing of ``families``.

    Returns:
        One sentence for each family that failed; the others were finished all the same.
    """
    from bench.store import Store

    store = Store(job.runs)
    missing = [family for family in families if not all(store.has(run) for run in family.runs)]
    if not missing:
        return []
    bar = Bar(title, len(missing))
    try:
        if workers <= 1 or len(missing) == 1:
            return _serial(job, missing, bar)
        return _parallel(job, missing, min(workers, len(missing)), bar)
    finally:
        bar.close()


def _runner(job: Job, log: Callable[[str], None]) -> Any:
    import torch

    from bench.registry import load_plugin
    from bench.runner import Runner
    from bench.store import Store

    for plugin in job.plugins:
        load_plugin(plugin)
    # one thread by default: sums are then taken in one order, whatever the machine
    torch.set_num_threads(job.threads)
    device = job.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Runner(
        store=Store(job.runs),
        source=job.source,
        model_path=job.model_path,
        device=torch.device(device),
        eval_every=job.eval_every,
        checkpoint_seconds=job.checkpoint_seconds,
        log=log,
    )


def _serial(job: Job, families: Sequence[Family], bar: Bar) -> list[str]:
    runner = _runner(job, bar.log)
    failures = []
    for family in families:
        try:
            _run(runner, family, lambda fraction, text, key=family.key: bar.update(key, fraction, text))  # type: ignore[misc]
            bar.done(family.key, f"done: {family.label}")
        except Exception as error:
            failures.append(_sentence(family, error))
            bar.done(family.key, f"FAILED: {failures[-1]}")
    return failures


def _run(runner: Any, family: Family, sink: Callable[[float, str], None]) -> None:
    runner.run(family, FamilyProgress(family.label, len(family.runs), sink))


def _sentence(family: Family, error: BaseException) -> str:
    return f"{family.label}: {type(error).__name__}: {error}"


def _parallel(job: Job, families: Sequence[Family], workers: int, bar: Bar) -> list[str]:
    context = multiprocessing.get_context("spawn")
    queue = list(families)[::-1]
    failures: list[str] = []
    busy: dict[Connection, Family | None] = {}
    processes: dict[Connection, Any] = {}
    for number in range(workers):
        ours, theirs = context.Pipe()
        process = context.Process(target=_worker, args=(job, theirs), name=f"bench-worker-{number}", daemon=True)
        process.start()
        theirs.close()
        processes[ours], busy[ours] = process, None
        _give(ours, queue, busy)
    while busy:
        for pipe in wait(list(busy)):
            assert isinstance(pipe, Connection)
            family = busy[pipe]
            try:
                kind, *rest = pipe.recv()
            except EOFError:  # the worker died: killed, or out of memory
                processes[pipe].join()
                if family is not None:
                    failures.append(
                        f"{family.label}: its worker process died (exit code {processes[pipe].exitcode}). Run the "
                        "command again: it continues from the last checkpoint."
                    )
                    bar.done(family.key, f"FAILED: {failures[-1]}")
                del busy[pipe]
                continue
            if kind == "log":
                bar.log(rest[0])
            elif family is not None and kind == "at":
                bar.update(family.key, rest[0], rest[1])
            elif family is not None:
                if kind == "failed":
                    failures.append(rest[0])
                bar.done(family.key, f"done: {family.label}" if kind == "done" else f"FAILED: {rest[0]}")
                _give(pipe, queue, busy)
    if queue:
        failures.append(f"{len(queue)} families were not started, because all workers had died. Run the command again.")
    for process in processes.values():
        process.join()
    return failures


def _give(pipe: Connection, queue: list[Family], busy: dict[Connection, Family | None]) -> None:
    """Hand the next family to a worker, or send it home."""
    if not queue:
        pipe.send(None)
        del busy[pipe]
        return
    family = queue.pop()
    busy[pipe] = family
    pipe.send((to_json(family.root), [to_json(run) for run in family.runs]))


def _worker(job: Job, pipe: Connection) -> None:
    """A worker process: takes families from the pipe until None comes; ends at once when the parent is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        runner = _runner(job, lambda text: pipe.send(("log", text)))
        while (work := pipe.recv()) is not None:
            root, runs = work
            family = Family(build(FitSpec, root), tuple(build(RunSpec, run) for run in runs))
            try:
                _run(runner, family, lambda fraction, text: pipe.send(("at", fraction, text)))
                pipe.send(("done",))
            except Exception as error:
                pipe.send(("failed", _sentence(family, error)))
    except (EOFError, BrokenPipeError):
        return
    except Exception:
        traceback.print_exc(file=sys.stderr)
        raise
