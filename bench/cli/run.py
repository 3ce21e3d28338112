"""``bench run``: one method on one task with one seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.app import RUN, command
from bench.cli.complete import methods, tasks
from bench.cli.launching import launch
from bench.cli.options import RUNS, ExecutionOptions, LaunchOptions, Runs, SpecOptions
from bench.cli.terminal import say

if TYPE_CHECKING:
    from bench.store.records import RunRecord

_LAUNCH = LaunchOptions(retry_failed=True)  # one run, here: who asks for it again wants it tried again


@command(RUN)
def run(
    method: Annotated[
        str, typer.Option(metavar="NAME", help="See `bench list methods`.", show_default=False, autocompletion=methods)
    ],
    task: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="See `bench list tasks`; or a task file (*.toml).",
            show_default=False,
            autocompletion=tasks,
        ),
    ],
    spec: SpecOptions,
    execution: ExecutionOptions,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of every random number.")] = 21,
    protocol: Annotated[str, typer.Option(metavar="NAME", help="paper or clean.")] = "paper",
    eval_task: Annotated[
        list[str],
        typer.Option(
            metavar="TASK",
            help="Also evaluate on this task, out of distribution.",
            show_default=False,
            autocompletion=tasks,
        ),
    ] = [],  # noqa: B006  (typer reads it, and makes a new list for each call)
    variant: Annotated[
        str, typer.Option(metavar="LABEL", help="Label of these settings in tables.", show_default=False)
    ] = "",
    eval_every: Annotated[
        int,
        typer.Option(
            metavar="N", help="Evaluate every N training steps, at the posterior mean where there is one; 0: never."
        ),
    ] = 0,
    runs: Runs = RUNS,
) -> int:
    """Train and evaluate one method on one task with one seed."""
    from bench.data.splits import DataSource
    from bench.plan.grid import single
    from bench.plan.runs import families
    from bench.plan.settings import merge, parse_assignment
    from bench.store.store import Store

    if eval_every < 0:
        raise ValueError(f"--eval-every {eval_every}: use a number of steps, or 0.")
    grid = single(
        method,
        task,
        seed,
        protocol=protocol,
        variant=variant,
        eval_tasks=eval_task,
        eval_every=eval_every,
        source=DataSource(spec.data_dir, spec.allow_partial_data),
        model=spec.model_table,
        overrides=merge(*map(parse_assignment, spec.assignments)),
        plugins=tuple(spec.plugins),
        trackers=execution.track,
    )
    planned = grid.runs()
    status = launch(grid, families(planned), runs, execution, _LAUNCH)
    for each in planned if status == 0 else ():
        _print_result(Store(runs).record(each))
    return status


def _print_result(record: RunRecord) -> None:
    spec = record.spec
    trained = "" if spec.data.task == spec.fit.data.task else f", trained on {spec.fit.data.task}"
    say(f"{spec.method} on {spec.data.task} ({spec.split}){trained}, seed {spec.fit.seed}, key {record.key}")
    for name, value in record.metrics.items():
        say(f"  {name:12} {value:.4f}")
    for sentence in record.facts["fit"]["warnings"]:
        say(f"  warning: {sentence}")
    if record.facts["partial_data"]:
        say("  partial data: not comparable with results on the whole dataset")
