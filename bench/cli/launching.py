"""From options to a grid, and from a grid to launched families: what `run`, `grid`, `tune`, `status`, ... share."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.options import ExecutionOptions, LaunchOptions, SpecOptions
from bench.cli.paths import check_output_folder
from bench.cli.terminal import complain
from bench.process.garbage import uncollected
from bench.process.text import counted

if TYPE_CHECKING:
    from bench.plan.grid import Grid
    from bench.run.execution import Execution
    from bench.specs import Family


@uncollected()
def grid_of(file: Path, spec: SpecOptions, with_variants: bool = True, track: Sequence[str] = ()) -> Grid:
    """The grid of a file, overridden by what the command line says."""
    from bench.launch.launcher import get_launcher, launcher_names
    from bench.plan.grid import read_grid
    from bench.plan.settings import merge, parse_assignment

    return read_grid(
        file,
        data_dir=spec.data_dir,
        allow_partial=spec.allow_partial_data,
        model=spec.model_table,
        overrides=merge(*map(parse_assignment, spec.assignments)),
        plugins=tuple(spec.plugins),
        with_variants=with_variants,
        trackers=track,
        launchers={name: get_launcher(name).check for name in launcher_names()},
    )


def check_data(grid: Grid) -> None:
    """Refuse a data folder that is not there.

    Raises:
        FileNotFoundError: it is not.
    """
    folder = grid.source.data_dir
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder} (--data-dir, or data_dir in the grid).")


def execution_of(grid: Grid, execution: ExecutionOptions) -> Execution:
    """The execution settings of workers.

    Raises:
        FileNotFoundError: the data folder does not exist.
        ValueError: no task of the grid reads it; or settings contradict each other.
    """
    from bench.data.rows import makes_rows
    from bench.run.execution import Execution
    from bench.task import get_task

    check_data(grid)
    folder = grid.source.data_dir
    if folder is not None and all(makes_rows(get_task(name)) for name in grid.all_tasks):
        raise ValueError(
            f"Nothing would read {folder} (--data-dir, or data_dir in the grid): the rows of "
            f"{', '.join(grid.all_tasks)} do not come from the hub. Leave it out."
        )
    if execution.graphs and grid.model.packing:
        raise ValueError(
            "--graphs records a graph for each shape of a batch, and packed prompts have a new shape at nearly every "
            "step: leave out one of --graphs and --packing (packing in [model])."
        )
    if execution.compile and grid.model.packing:
        raise ValueError(
            "--compile would compile again for the lengths of every packed batch: leave out one of --compile and "
            "--packing (packing in [model])."
        )
    if execution.compile and grid.model.quantization != "none":
        raise ValueError(
            f"--compile cannot compile the layers of a base in {grid.model.quantization}: leave out one of --compile "
            "and --quantization."
        )
    return Execution(
        source=grid.source,
        model_path=grid.model_path,
        adapter_path=grid.adapter_path,
        device=execution.device,
        threads=execution.threads,
        eval_every=grid.eval_every,
        graphs=execution.graphs,
        compile=execution.compile,
        recompute=execution.gradient_checkpointing,
        checkpoint_seconds=execution.checkpoint_seconds,
        claim_seconds=execution.claim_seconds,
        plugins=grid.plugins,
        track=grid.trackers,
        device_map=execution.placed,
    )


def launch(
    grid: Grid,
    families: Sequence[Family],
    runs: Path,
    execution: ExecutionOptions,
    options: LaunchOptions,
    wait: bool = False,
) -> int:
    """Hand the missing ``families`` to the launcher; with ``wait``, follow those that it only submits.

    Returns:
        The exit status: 0, or 1 when a family failed or was given up.
    """
    from bench.launch.follow import follow
    from bench.launch.launcher import Order, get_launcher, sent
    from bench.plan.runs import missing
    from bench.plan.settings import merge, parse_assignment
    from bench.process.stop import StopRequest
    from bench.store.store import Store

    check_output_folder(runs, "--runs")
    launcher = get_launcher(options.launcher)
    assignments = map(functools.partial(parse_assignment, option="--with"), options.launcher_assignments)
    settings = merge(grid.launchers.get(launcher.name, {}), *assignments)
    launcher.check(settings)
    given = {"workers": options.workers > 1, "max_parallel": options.max_parallel > 0, "wait": wait}
    for option in given:
        if given[option] and option not in launcher.reads:
            raise ValueError(
                f"--{option.replace('_', '-')} means nothing to the launcher '{launcher.name}': leave it out."
            )
    how = execution_of(grid, execution)
    if how.device_map is not None and options.workers > 1:
        raise ValueError(
            "--device-map spreads one base over every device, and each worker would load its own base: leave out "
            "--workers."
        )
    store = Store(runs)
    undone, given_up = missing(families, store, sys.maxsize if options.retry_failed else options.retries)
    known = launcher.queue(store) if launcher.queue else {}
    todo = [family for family in undone if not sent(family, known, store)]
    failures: list[str] = []
    if todo:
        if not options.dry_run:
            store.check_writable()
        with StopRequest().installed() as stop:
            order = Order(
                title=grid.name,
                store=store,
                execution=how,
                families=tuple(todo),
                workers=options.workers,
                max_parallel=options.max_parallel,
                settings=settings,
                dry_run=options.dry_run,
                stop=stop,
            )
            failures = launcher.launch(order)
    if launcher.queue and not options.dry_run:
        submitted = counted(len(todo), "family", "families")
        complain(f"{grid.name}: {submitted} submitted, {len(undone) - len(todo)} already queued")
        failures = follow(grid.name, undone, store) if wait and undone else []
    for failure in (*given_up, *failures):
        complain(failure)
    return 1 if given_up or failures else 0
