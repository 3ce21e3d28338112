"""The command ``bench``. Imports that take time stay inside the functions that need them."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

USER_ERRORS = (LookupError, ValueError, FileNotFoundError, ImportError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 something failed, 2 the command could not be understood."""
    options = _parser().parse_args(arguments)
    from bench.registry import BrokenPlugin

    try:
        status: int = options.run(options)
        return status
    except (*USER_ERRORS, BrokenPlugin) as error:
        if options.debug:
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"bench: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nbench: stopped. The same command continues from here.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench",
        description="Bayesian LoRA finetuning, compared on one substrate: run methods on tasks, rank them.",
    )
    parser.add_argument("--debug", action="store_true", help="show the trace of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = _command(commands, "run", _run, "one method on one task with one seed")
    run.add_argument("--method", required=True, help="see `bench list methods`")
    run.add_argument("--task", required=True, help="see `bench list tasks`")
    run.add_argument("--seed", type=int, default=21, help="default: %(default)s")
    run.add_argument("--protocol", default="paper", help="paper or clean; default: %(default)s")
    run.add_argument(
        "--eval-task",
        action="append",
        default=[],
        metavar="TASK",
        help="evaluate on this task too, out of distribution",
    )
    run.add_argument("--variant", default="", help="a label for these settings in tables")
    run.add_argument("--eval-every", type=int, default=0, metavar="N", help="score the mean every N steps")
    _shared(run)

    grid = _command(commands, "grid", _grid, "all runs of a grid file that are not there yet")
    grid.add_argument("grid", type=Path, metavar="GRID.toml")
    grid.add_argument("--workers", type=int, default=1, metavar="N", help="local processes; default: %(default)s")
    _shared(grid)

    tune = _command(commands, "tune", _tune, "choose each method's settings on held-out training data")
    tune.add_argument("grid", type=Path, metavar="GRID.toml")
    tune.add_argument("--workers", type=int, default=1, metavar="N", help="local processes; default: %(default)s")
    _shared(tune)

    status = _command(commands, "status", _status, "what of a grid is done, under way, failed or missing")
    status.add_argument("grid", type=Path, metavar="GRID.toml")
    _shared(status)

    board = _command(commands, "leaderboard", _leaderboard, "write leaderboard.csv from the stored records")
    board.add_argument("--runs", type=Path, default=Path("runs"), help="default: %(default)s")
    board.add_argument("--out", type=Path, default=Path("leaderboard.csv"), help="default: %(default)s")

    report = _command(commands, "report", _report, "write tables and figures from the stored records")
    report.add_argument("--runs", type=Path, default=Path("runs"), help="default: %(default)s")
    report.add_argument("--out", type=Path, default=Path("report"), help="default: %(default)s")

    show = _command(commands, "show", _show, "a stored fit or evaluation, by the start of its key")
    show.add_argument("key", metavar="KEY")
    show.add_argument("--runs", type=Path, default=Path("runs"), help="default: %(default)s")

    listing = _command(commands, "list", _list, "the methods or the tasks")
    listing.add_argument("what", choices=["methods", "tasks"])
    listing.add_argument("--json", action="store_true", help="for programs")
    listing.add_argument("--plugin", action="append", default=[], metavar="MODULE", help="load it first")
    return parser


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    return parser


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the store; default: %(default)s")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="steps=200, ivon.ess=1e6, ...")
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="MODULE", help="a module with methods or tasks"
    )
    parser.add_argument("--model", help="embedded, a hub name, or a folder; default: embedded")
    parser.add_argument("--revision", help="commit, tag or branch of a hub model")
    parser.add_argument("--quantization", help="none, int8 or nf4; default: none")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16; default: float32")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="local mirror of the hub's datasets")
    parser.add_argument("--allow-partial-data", action="store_true", help="accept splits with missing rows, and say so")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads per process; default: %(default)s")
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=30.0, metavar="S", help="least time between checkpoints"
    )


def _model_table(options: argparse.Namespace) -> dict[str, str]:
    given = {
        "id": options.model,
        "revision": options.revision,
        "quantization": options.quantization,
        "dtype": options.dtype,
    }
    return {name: value for name, value in given.items() if value is not None}


def _read_grid(options: argparse.Namespace, with_variants: bool = True) -> Any:
    from bench.grid import read_grid
    from bench.settings import merge, parse_assignment

    return read_grid(
        options.grid,
        data_dir=options.data_dir,
        allow_partial=options.allow_partial_data,
        model=_model_table(options),
        overrides=merge(*map(parse_assignment, options.set)),
        plugins=tuple(options.plugin),
        with_variants=with_variants,
    )


def _job(options: argparse.Namespace, grid: Any) -> Any:
    from bench.launch import Job

    if options.threads < 1:
        raise ValueError(f"--threads {options.threads}: give at least 1.")
    if options.workers < 1:
        raise ValueError(f"--workers {options.workers}: give at least 1.")
    if not options.checkpoint_seconds >= 0:  # NaN too
        raise ValueError(f"--checkpoint-seconds {options.checkpoint_seconds}: give 0 or more.")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", options.device):
        raise ValueError(f"--device '{options.device}': give auto, cpu, cuda or cuda:N.")
    folder = grid.source.data_dir
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder} (--data-dir, or data_dir in the grid).")
    return Job(
        runs=options.runs,
        source=grid.source,
        model_path=grid.model_path,
        device=options.device,
        threads=options.threads,
        eval_every=grid.eval_every,
        checkpoint_seconds=options.checkpoint_seconds,
        plugins=grid.plugins,
    )


def _launch(options: argparse.Namespace, grid: Any, families: Any) -> int:
    from bench.launch import launch

    failures = launch(_job(options, grid), families, options.workers, grid.name)
    for failure in failures:
        print(f"bench: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _run(options: argparse.Namespace) -> int:
    from bench.data import DataSource
    from bench.grid import Grid, choose_model
    from bench.plan import families
    from bench.registry import get_method, get_task, load_plugin
    from bench.settings import check_settings, merge, parse_assignment
    from bench.store import Store

    for plugin in options.plugin:
        load_plugin(plugin)
    get_method(options.method)
    get_task(options.task)
    settings = merge(*map(parse_assignment, options.set))
    check_settings(settings)
    if options.eval_every < 0:
        raise ValueError(f"--eval-every {options.eval_every}: give a number of steps, or 0.")
    model, path = choose_model(_model_table(options))
    grid = Grid(
        name="run",
        methods=(options.method,),
        tasks=(options.task,),
        seeds=(options.seed,),
        protocol=options.protocol,
        plugins=tuple(options.plugin),
        eval_every=options.eval_every,
        source=DataSource(options.data_dir, options.allow_partial_data),
        model=model,
        model_path=path,
        settings=settings,
        variants={options.variant: {}},
        evals={options.task: tuple(dict.fromkeys(options.eval_task))},
    )
    specs = grid.runs()
    options.workers = 1
    status = _launch(options, grid, families(specs))
    for spec in specs if status == 0 else ():
        _print_result(Store(options.runs).record(spec))
    return status


def _print_result(record: Any) -> None:
    spec, metrics = record.spec, record.metrics
    trained = "" if spec.data.task == spec.fit.data.task else f", trained on {spec.fit.data.task}"
    print(f"{spec.method} on {spec.data.task} ({spec.split}){trained}, seed {spec.fit.seed}, key {record.key}")
    for name, value in metrics.items():
        print(f"  {name:12} {value:.4f}")
    if record.facts["partial_data"]:
        print("  partial data: not comparable with results on the whole dataset")


def _grid(options: argparse.Namespace) -> int:
    grid = _read_grid(options)
    families = grid.families()
    status = _launch(options, grid, families)
    runs = sum(len(family.runs) for family in families)
    print(f"{grid.name}: {runs} evaluations of {len(families)} families in {options.runs}")
    return status


def _tune(options: argparse.Namespace) -> int:
    from bench.tune import Scored, choose, plan_tuning, stages, write_choice

    grid = _read_grid(options, with_variants=False)
    whole = plan_tuning(grid)  # all of it first: a mistake in the last method shows before the first is trained
    scored: list[Scored] = []
    for methods in stages(grid):
        chosen = {item.candidate.method: item.candidate.values for item in scored if item.chosen}
        tuning = plan_tuning(grid, methods, chosen)
        print(tuning.summary(), flush=True)
        status = _launch(options, grid, tuning.families())
        if status:
            return status
        scored += choose(tuning, options.runs)
    for file in write_choice(whole, scored, options.grid):
        print(f"wrote {file}")
    return 0


def _status(options: argparse.Namespace) -> int:
    from bench.status import grid_status

    grid = _read_grid(options)
    lines, complete = grid_status(grid, options.runs)
    print("\n".join(lines))
    return 0 if complete else 1


def _leaderboard(options: argparse.Namespace) -> int:
    from analysis.leaderboard import write_leaderboard

    rows = write_leaderboard(options.runs, options.out)
    print(f"wrote {options.out}: {rows} rows")
    return 0


def _report(options: argparse.Namespace) -> int:
    from analysis.report import write_report

    for file in write_report(options.runs, options.out):
        print(f"wrote {file}")
    return 0


def _show(options: argparse.Namespace) -> int:
    from bench.store import Store

    folder = Store(options.runs).find(options.key)
    spec = json.loads((folder / "spec.json").read_text())
    facts = json.loads((folder / "facts.json").read_text())
    print(json.dumps({"folder": str(folder), "spec": spec, "facts": facts}, indent=2))
    return 0


def _list(options: argparse.Namespace) -> int:
    from bench.listing import list_methods, list_tasks, render
    from bench.registry import load_plugin

    for plugin in options.plugin:
        load_plugin(plugin)
    rows = list_methods() if options.what == "methods" else list_tasks()
    print(json.dumps(rows, indent=2) if options.json else render(rows))
    return 0
