"""Commands for before anything runs: `plan` and `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.app import FOLLOW, SETUP, command
from bench.cli.launching import check_data, grid_of
from bench.cli.options import RUNS, DeviceOptions, GridFile, Runs, SpecOptions, Workers, check_workers
from bench.cli.terminal import say, warn
from bench.errors import one_line

if TYPE_CHECKING:
    from bench.plan.forecast import Need
    from bench.plan.grid import Grid
    from bench.run.probe import Costs


@command(FOLLOW)
def plan(
    file: GridFile,
    spec: SpecOptions,
    device: DeviceOptions,
    workers: Workers = 1,
    no_probe: Annotated[
        bool, typer.Option("--no-probe", help="Count only; load no model and predict no time, memory or disk.")
    ] = False,
    runs: Runs = RUNS,
) -> None:
    """Predict what a grid needs: fits, evaluations, time, memory, disk; and what is stored already."""
    from bench.plan.forecast import describe, forecast, needed
    from bench.store.store import Store

    check_workers(workers)
    grid = grid_of(file, spec)
    check_data(grid)
    need = needed(grid.families(), Store(runs))
    costs = None if no_probe else _probed(grid, need, device, workers)
    predicted = None if costs is None else forecast(need, costs, grid.eval_every)
    for line in describe(grid.name, need, predicted, workers):
        say(line)


def _probed(grid: Grid, need: Need, device: DeviceOptions, workers: int) -> Costs | None:
    """Measurements of a probe on this machine; None, with a warning, if the base cannot be loaded."""
    from bench.errors import ModelNotUsable
    from bench.launch.probing import probed
    from bench.run.execution import Execution
    from bench.run.probe import check_here

    if not need.runs:
        return None
    execution = Execution(
        source=grid.source,
        model_path=grid.model_path,
        adapter_path=grid.adapter_path,
        device=device.device,
        threads=device.threads,
        eval_every=grid.eval_every,
        plugins=grid.plugins,
        device_map=device.placed,
    )
    try:
        check_here(grid.model, grid.model_path)
        return probed(execution, need.fits, need.runs, workers)
    except (ModelNotUsable, FileNotFoundError, ImportError) as error:
        warn(f"Time, memory and disk are not predicted: {error}")
        return None
    except Exception as error:  # of any kind: a method may not work with the few steps of a probe
        warn(f"Time, memory and disk are not predicted: a probe of few steps failed ({one_line(error)}).")
        return None


@command(SETUP)
def doctor(
    spec: SpecOptions,
    file: Annotated[
        Path | None, typer.Argument(metavar="[GRID]", help="Also check what this grid needs.", show_default=False)
    ] = None,
    runs: Runs = RUNS,
) -> int:
    """Check this machine: each line is ok, a note, or the fix; exits with 1 where something is to be fixed."""
    from bench.launch.doctor import Verdict, examine

    wrong = False
    for finding in examine(runs, None if file is None else lambda: grid_of(file, spec)):
        say(finding)
        wrong |= finding.verdict == Verdict.FIX
    return 1 if wrong else 0
