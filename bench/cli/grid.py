"""Commands that compute or follow a grid: `grid`, `tune`, `status`, `logs`, `cancel`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from bench.cli.app import FOLLOW, RUN, command
from bench.cli.launching import grid_of, launch
from bench.cli.options import RUNS, ExecutionOptions, GridFile, Json, Key, LaunchOptions, Runs, SpecOptions
from bench.cli.terminal import complain, say
from bench.process.garbage import uncollected
from bench.process.text import counted


@command(RUN)
def grid(
    file: GridFile,
    spec: SpecOptions,
    execution: ExecutionOptions,
    options: LaunchOptions,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Follow submitted families until all have ended.", rich_help_panel="Where it runs"),
    ] = False,
    runs: Runs = RUNS,
) -> int:
    """Compute every run of a grid file that the store does not hold yet."""
    from bench.store.display import note_main_variant

    planned = grid_of(file, spec, track=execution.track)
    with uncollected():
        families = planned.families()
    status = launch(planned, families, runs, execution, options, wait)
    if planned.main_variant is not None and not options.dry_run:
        note_main_variant(runs, planned.main_variant)
    count = sum(len(family.runs) for family in families)
    where = f"planned for {runs}" if options.dry_run else f"in {runs}"
    families_text = counted(len(families), "family", "families")
    complain(f"{planned.name}: {counted(count, 'evaluation')} of {families_text} {where}")
    return status


@command(RUN)
def tune(
    file: GridFile,
    spec: SpecOptions,
    execution: ExecutionOptions,
    options: LaunchOptions,
    runs: Runs = RUNS,
) -> int:
    """Tune the settings of methods on held-out training data."""
    from bench.launch.launcher import get_launcher
    from bench.plan.runs import missing
    from bench.plan.tune import Scored, choose, plan_tuning, stages, write_choice
    from bench.store.store import Store

    planned = grid_of(file, spec, with_variants=False, track=execution.track)
    whole = plan_tuning(planned)  # all of it first: a mistake in the last method shows before the first is trained
    wait = "wait" in get_launcher(options.launcher).reads  # the choice needs every score
    scored: list[Scored] = []
    for methods in stages(planned):
        chosen = {item.candidate.method: item.candidate.values for item in scored if item.chosen}
        tuning = plan_tuning(planned, methods, chosen)
        say(tuning.summary())
        sys.stdout.flush()
        store = Store(runs)
        families = tuning.families(None if options.retry_failed else store)
        status = launch(planned, families, runs, execution, options, wait)
        undone = missing(tuning.families(store), store, sys.maxsize)[0]  # but for those that diverged
        if undone:
            then = "Nothing is chosen yet" if options.dry_run else "Nothing was chosen"
            complain(
                f"{then}: {len(undone)} families of {', '.join(methods)} have no score. Run the same command again "
                "once they have."
            )
            return status or int(not options.dry_run)
        scored += choose(tuning, runs)
    for written in write_choice(whole, scored, file):
        say(f"wrote {written}")
    return 0


@command(FOLLOW)
def status(file: GridFile, spec: SpecOptions, as_json: Json = False, runs: Runs = RUNS) -> int:
    """Show the state of every run in a grid; exits with 1 until all are done."""
    with uncollected():
        from bench.launch.status import grid_status
        from bench.store.store import Store

        data, lines, complete = grid_status(grid_of(file, spec), Store(runs))
    say(json.dumps(data) if as_json else "\n".join(lines))
    return 0 if complete else 1


@command(FOLLOW)
def logs(
    key: Key,
    lines: Annotated[int, typer.Option(metavar="N", help="Show the last N lines of each log.")] = 200,
    runs: Runs = RUNS,
) -> None:
    """Show failures and job logs of a family, fit or evaluation."""
    from bench.launch.logs import logs as text_of
    from bench.store.store import Store

    if lines < 1:
        raise ValueError(f"--lines {lines}: use at least 1.")
    say(text_of(Store(runs), key, lines))


@command(FOLLOW)
def cancel(file: GridFile, spec: SpecOptions, runs: Runs = RUNS) -> None:
    """Cancel queued and running families of a grid; finished results are kept."""
    from bench.launch.launcher import get_launcher, launcher_names
    from bench.store.store import Store

    planned = grid_of(file, spec)
    keys = {family.key for family in planned.families()}
    said = []
    for name in launcher_names():
        stop = get_launcher(name).cancel
        said += stop(Store(runs), keys) if stop else []
    say("\n".join(said) or f"No family of {planned.name} is queued or running.")
