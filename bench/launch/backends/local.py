"""Families on this machine: one after the other, or by N worker processes that take the GPUs in turn."""

from __future__ import annotations

import collections
from collections.abc import Collection

from bench.launch.launcher import Order, get_launcher
from bench.launch.pool import Pool, import_ahead
from bench.launch.submission import read_submission
from bench.plan.preflight import preflight
from bench.process import gpus
from bench.process.console import shown
from bench.process.holder import ask_to_stop, read_claims
from bench.process.progress import Bar
from bench.run.worker import Outcome, make_runner, work
from bench.store.store import Store

READS = ("workers", "wait")


def launch(order: Order) -> list[str]:
    """Compute the families here.

    Families that another process is at work on come last; then it is waited for.

    Raises:
        LookupError, OSError, ValueError: the store, the rows or the base cannot be used, before any work.
        Stopped: a signal asked for it; every process has left a checkpoint.
    """
    if order.dry_run:
        print("\n".join(f"{family.key}  {family.label}" for family in order.families))
        return []
    workers = min(order.workers, len(order.families))
    devices = _devices(order, workers)
    if workers > 1 and None in devices:
        import_ahead()
    preflight(order.families, order.store, order.execution.source, order.execution.model_path)
    order.store.tidy(order.execution.claim_seconds)
    bar = Bar(order.title, len(order.families))
    try:
        with shown(bar.log):
            return Pool(order, bar).run(devices) if workers > 1 else _serial(order, bar)
    finally:
        bar.close()


def cancel(store: Store, keys: Collection[str]) -> list[str]:
    """Ask the processes of this machine that are at work on these families to stop; say where the others are.

    Jobs of a launcher that cancels its own are left to it. Nobody else can stop those of another scheduler.
    """
    lines = []
    for family, held in read_claims(store.claims).items():
        if family not in keys or not held["alive"] or _cancels_its_own(store, held["job"]):
            continue
        pid = ask_to_stop(store.claim_file(family))
        job = f" as job {held['job']}" if held["job"] else ""
        if pid is not None:
            lines.append(f"{held['label']}: asked process {pid} to stop")
        else:
            lines.append(f"{held['label']}: runs{job} on {held['host'] or 'an unknown machine'}; stop it there")
    return lines


def _cancels_its_own(store: Store, job: str) -> bool:
    """Whether a job was submitted by a launcher that can cancel it."""
    submission = read_submission(store, job.partition("/")[0])
    if submission is None or submission.launcher == "local":
        return False
    try:
        return get_launcher(submission.launcher).cancel is not None
    except LookupError:  # a launcher that is not installed here
        return False


def _devices(order: Order, workers: int) -> list[str | None]:
    """``CUDA_VISIBLE_DEVICES`` for each worker; None leaves it as it is."""
    if workers <= 1 or order.execution.device not in ("auto", "cuda"):
        return [None] * workers
    return gpus.assign(workers, order.families[0].root.model, order.execution.model_path)


def _serial(order: Order, bar: Bar) -> list[str]:
    runner = make_runner(order.store, order.execution, order.stop)
    queue = collections.deque((family, False) for family in order.families)
    failures = []
    while queue:
        family, again = queue.popleft()
        outcome, text = work(
            runner, family, lambda fraction, text, key=family.key: bar.update(key, fraction, text), again  # type: ignore[misc]
        )  # fmt: skip
        if outcome == Outcome.HELD:
            queue.append((family, True))
            bar.log(text)
            continue
        if outcome == Outcome.STOPPED:
            raise order.stop.stopped(text)
        if outcome != Outcome.DONE:
            failures.append(text)
        bar.done(family.key, text, outcome == Outcome.DONE)
        if outcome == Outcome.BLOCKED:
            if queue:
                failures.append(f"{len(queue)} families were not started, because nothing more can be written.")
            break
    return failures
