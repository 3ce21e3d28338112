"""The probe of ``bench plan`` in as many processes as the grid will have workers.

What workers of one machine cost each other, such as memory bandwidth, is in the measurements then. Each process takes
whole families of kinds; where there are fewer of these than workers, several processes measure the same.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bench.launch.pool import end_with_parent, forked_after_imports
from bench.process import gpus
from bench.run.execution import Execution
from bench.run.probe import Costs, fit_kind, probe, run_kind
from bench.run.worker import make_runner
from bench.specs import FitSpec, RunSpec, key
from bench.store.store import Store

Work = tuple[list[FitSpec], list[RunSpec]]


def probed(execution: Execution, fits: Sequence[FitSpec], runs: Sequence[RunSpec], workers: int) -> Costs:
    """Measurements of everything that ``fits`` and ``runs`` need, for ``workers`` of them at once.

    On a machine with GPUs one process measures: workers have GPUs of their own there.

    Raises:
        ModelNotUsable, ...: the base cannot be loaded, or a method fails.
    """
    on_gpus = execution.device != "cpu" and gpus.visible()
    families = len({key(run.fit.root) for run in runs})
    count = 1 if on_gpus else min(workers, families, os.cpu_count() or 1)
    shares = dealt(fits, runs, count)
    ready = time.process_time()  # of this process, which has imported what a launcher does
    if len(shares) == 1:
        costs = _measure(execution, shares[0], None)
    else:
        with ProcessPoolExecutor(len(shares), mp_context=_context(), initializer=end_with_parent) as pool:
            costs = functools.reduce(
                Costs.__or__, pool.map(functools.partial(_measure, execution, began=time.monotonic()), shares)
            )
    return costs | Costs({}, {}, 0.0, costs.start + ready)


def dealt(fits: Sequence[FitSpec], runs: Sequence[RunSpec], count: int) -> list[Work]:
    """The work in ``count`` parts of about equal numbers of kinds, each of whole families of kinds.

    Where there are fewer families of kinds than parts, parts are the same.
    """
    groups: defaultdict[str, Work] = defaultdict(lambda: ([], []))
    for fit in fits:
        groups[fit_kind(fit.root)][0].append(fit)
    for run in runs:
        groups[fit_kind(run.fit.root)][1].append(run)
    parts: list[Work] = [([], []) for _ in range(min(count, len(groups)))]
    for group in sorted(groups.values(), key=_kinds, reverse=True):
        least = min(parts, key=_kinds)
        least[0].extend(group[0])
        least[1].extend(group[1])
    return [parts[number % len(parts)] for number in range(count)]


def _kinds(work: Work) -> int:
    return len({fit_kind(fit) for fit in work[0]}) + len({run_kind(run) for run in work[1]})


def _context() -> multiprocessing.context.BaseContext:
    context: multiprocessing.context.BaseContext = forked_after_imports()
    return context


def _measure(execution: Execution, work: Work, began: float | None) -> Costs:
    return probe(make_runner(Store(Path()), execution), *work, began)
