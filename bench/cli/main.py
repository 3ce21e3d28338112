"""The command ``bench``. Imports that take time stay inside the functions that need them."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.process.claim import SECONDS
from bench.process.stop import EXIT_STOPPED, Stopped, StopRequest, start_again

USER_ERRORS = (LookupError, ValueError, OSError, ImportError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0 done, 1 something failed, 2 the command could not be understood, 75 stopped by a signal, 130 by Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    from bench.errors import BrokenPlugin

    try:
        status: int = options.run(options)
        sys.stdout.flush()  # here, where a reader that has gone away, such as `| head`, can still be met
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return 141  # what a shell shows of a program that SIGPIPE ends
    except (*USER_ERRORS, BrokenPlugin) as error:
        if options.debug:
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"bench: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nbench: stopped. The same command continues from here.", file=sys.stderr)
        return 130
    except Stopped as reason:
        print(f"bench: {reason}. The same command continues from here.", file=sys.stderr)
        return EXIT_STOPPED


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
    run.set_defaults(launcher="local", launcher_set=[], workers=1, max_parallel=0, dry_run=False, retry_failed=True)
    _shared(run)

    grid = _command(commands, "grid", _grid, "all runs of a grid file that are not there yet")
    grid.add_argument("grid", type=Path, metavar="GRID.toml")
    _launching(grid)
    _shared(grid)

    tune = _command(commands, "tune", _tune, "choose each method's settings on held-out training data")
    tune.add_argument("grid", type=Path, metavar="GRID.toml")
    _launching(tune)
    _shared(tune)

    status = _command(commands, "status", _status, "what of a grid is done, under way, failed or missing")
    status.add_argument("grid", type=Path, metavar="GRID.toml")
    status.add_argument("--json", action="store_true", help="for programs")
    _shared(status)

    cancel = _command(commands, "cancel", _cancel, "stop what waits or runs of a grid; what is done stays")
    cancel.add_argument("grid", type=Path, metavar="GRID.toml")
    _shared(cancel)

    logs = _command(commands, "logs", _logs, "failures and job logs of a family, fit or evaluation")
    logs.add_argument("key", metavar="KEY")
    logs.add_argument("--runs", type=Path, default=Path("runs"), help="default: %(default)s")
    logs.add_argument("--lines", type=int, default=200, metavar="N", help="of each log; default: %(default)s")

    family = _command(commands, "family", _family, "one family of a submission: what schedulers run")
    family.add_argument("file", type=Path, metavar="FAMILIES.jsonl")
    family.add_argument("--item", type=int, required=True, metavar="N", help="its number in the file, from 0")
    family.add_argument("--job", default="", metavar="NAME", help="the scheduler's job, by a name never used again")
    family.add_argument("--restart", type=int, default=0, metavar="N", help="how often that job was started again")
    family.add_argument("--node", default="", metavar="NAME", help="the machine's name; default: its host name")
    family.add_argument("--on-warning", default="", metavar="COMMAND", help="run after SIGUSR2, once a checkpoint is")

    board = _command(commands, "leaderboard", _leaderboard, "write leaderboard.csv from the stored records")
    board.add_argument("--runs", type=Path, default=Path("runs"), help="default: %(default)s")
    board.add_argument("--out", type=Path, default=Path("leaderboard.csv"), help="default: %(default)s")
    either = board.add_mutually_exclusive_group()
    either.add_argument("--check", action="store_true", help="write nothing; fail if the file is not what records give")
    either.add_argument("--add", type=Path, action="append", default=[], metavar="RUNS", help="merge this store first")

    merge = _command(commands, "merge", _merge, "copy the results of other stores into one, or refuse")
    merge.add_argument("sources", type=Path, nargs="+", metavar="RUNS", help="a store to copy from")
    merge.add_argument("--runs", type=Path, default=Path("runs"), help="the store to copy to; default: %(default)s")
    merge.add_argument("--dry-run", action="store_true", help="say what would be copied, and copy nothing")

    report = _command(commands, "report", _report, "write tables, figures and report.html from the stored records")
    report.add_argument("--runs", type=Path, default=Path("runs"), help="default: %(default)s")
    report.add_argument("--out", type=Path, default=Path("report"), help="default: %(default)s")
    report.add_argument(
        "--baseline", metavar="METHOD", help="what differences and costs are relative to; adamw unless given"
    )

    beside = _command(commands, "compare", _compare, "set the stored results beside the published ones")
    beside.add_argument("what", choices=["published"], help="the paper's Table 1")
    beside.add_argument("--runs", type=Path, default=Path("runs"), help="default: %(default)s")
    beside.add_argument("--out", type=Path, metavar="DIR", help="also write published.md and published.csv there")

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


def _launching(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--launcher", default="local", metavar="NAME", help="local, slurm or print; default: local")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="local processes; default: %(default)s")
    parser.add_argument("--max-parallel", type=int, default=0, metavar="N", help="families at once on a cluster")
    parser.add_argument(
        "--with", dest="launcher_set", action="append", default=[], metavar="NAME=VALUE", help="setting of the launcher"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be launched, and launch nothing")
    parser.add_argument("--wait", action="store_true", help="after a submission, wait and show progress")
    parser.add_argument("--retries", type=int, default=3, metavar="N", help="failures before a family is given up")
    parser.add_argument("--retry-failed", action="store_true", help="send families that were given up once more")


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
    parser.add_argument("--graphs", action="store_true", help="train with CUDA graphs: faster for small models")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads per process; default: %(default)s")
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=30.0, metavar="S", help="least time between checkpoints"
    )
    parser.add_argument(
        "--claim-seconds", type=float, default=SECONDS, metavar="S", help="silence after which a job counts as dead"
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
    from bench.plan.grid import read_grid
    from bench.plan.settings import merge, parse_assignment

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
    from bench.run.worker import Job

    if options.threads < 1:
        raise ValueError(f"--threads {options.threads}: give at least 1.")
    if options.claim_seconds <= 0:
        raise ValueError(f"--claim-seconds {options.claim_seconds}: give more than 0.")
    if options.workers < 1:
        raise ValueError(f"--workers {options.workers}: give at least 1.")
    if options.max_parallel < 0:
        raise ValueError(f"--max-parallel {options.max_parallel}: give 0 (no limit) or more.")
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
        graphs=options.graphs,
        checkpoint_seconds=options.checkpoint_seconds,
        claim_seconds=options.claim_seconds,
        plugins=grid.plugins,
    )


def _launch(options: argparse.Namespace, grid: Any, families: Any) -> int:
    """Hand what is missing of ``families`` to the launcher; wait where it only submits and the user asked for it."""
    from bench.launch.follow import follow
    from bench.launch.launcher import Order, get_launcher, sent
    from bench.plan.runs import missing
    from bench.plan.settings import merge, parse_assignment
    from bench.store.store import Store

    if not options.retry_failed and options.retries < 1:
        raise ValueError(f"--retries {options.retries}: give at least 1.")
    launcher = get_launcher(options.launcher)
    settings = merge(grid.launchers.get(launcher.name, {}), *map(parse_assignment, options.launcher_set))
    launcher.check(settings)
    retries = sys.maxsize if options.retry_failed else options.retries
    job = _job(options, grid)
    store = Store(options.runs)
    undone, given_up = missing(families, store, retries)
    known = launcher.queue(options.runs) if launcher.queue else {}
    todo = [family for family in undone if not sent(family, known, store)]
    failures: list[str] = []
    if todo:
        with StopRequest().installed() as stop:
            order = Order(
                title=grid.name,
                job=job,
                families=tuple(todo),
                workers=options.workers,
                max_parallel=options.max_parallel,
                settings=settings,
                dry_run=options.dry_run,
                stop=stop,
            )
            failures = launcher.launch(order)
    if launcher.queue and not options.dry_run:
        submitted = f"{len(todo)} families submitted, {len(undone) - len(todo)} already queued"
        print(f"{grid.name}: {submitted}", file=sys.stderr)
        failures = follow(grid.name, undone, options.runs) if options.wait and undone else []
    for failure in (*given_up, *failures):
        print(f"bench: {failure}", file=sys.stderr)
    return 1 if given_up or failures else 0


def _run(options: argparse.Namespace) -> int:
    from bench.data.splits import DataSource
    from bench.method import get_method
    from bench.plan.grid import Grid, Variant, choose_model
    from bench.plan.runs import families
    from bench.plan.settings import check_settings, merge, parse_assignment
    from bench.registry import load_plugin
    from bench.store.store import Store
    from bench.task import get_task

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
        variants={options.variant: Variant()},
        evals={options.task: tuple(dict.fromkeys(options.eval_task))},
    )
    specs = grid.runs()
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
    print(f"{grid.name}: {runs} evaluations of {len(families)} families in {options.runs}", file=sys.stderr)
    return status


def _family(options: argparse.Namespace) -> int:
    from bench.launch.submission import peek, read_item
    from bench.process.claim import Held, Worker, claim, covers
    from bench.store.store import Store

    who = Worker(options.job, options.restart, **({"node": options.node} if options.node else {}))
    with StopRequest().installed() as stop:  # before the imports, which take seconds
        runs, key, undone = peek(options.file, options.item)
        if not undone:
            print("bench: this family is done", file=sys.stderr)
            return 0
        wait = False
        try:
            with claim(Store(runs).claim_file(key), who, wait=False, stop=stop):
                pass  # only to see whether somebody is at work, before the imports
        except Held as held:
            if covers(held.holder, undone):
                print(f"bench: {held}", file=sys.stderr)
                return 0
            wait = True  # it computes less than this submission asks for

        from bench.process.progress import Bar
        from bench.run.worker import FAILED, STOPPED, make_runner, record_failure, work

        job, family = read_item(options.file, options.item)
        bar = Bar(family.label, 1)
        with record_failure(job, family):
            runner = make_runner(job, bar.log, stop, who)
        kind, text = work(runner, family, lambda fraction, text: bar.update(key, fraction, text), wait)
        bar.log(f"{kind}: {text}")
        if kind == STOPPED and stop.warned and options.on_warning:
            start_again(options.on_warning)
        return {STOPPED: EXIT_STOPPED, FAILED: 1}.get(kind, 0)


def _tune(options: argparse.Namespace) -> int:
    from bench.plan.runs import missing
    from bench.plan.tune import Scored, choose, plan_tuning, stages, write_choice
    from bench.store.store import Store

    grid = _read_grid(options, with_variants=False)
    whole = plan_tuning(grid)  # all of it first: a mistake in the last method shows before the first is trained
    options.wait = True  # the choice needs every score
    scored: list[Scored] = []
    for methods in stages(grid):
        chosen = {item.candidate.method: item.candidate.values for item in scored if item.chosen}
        tuning = plan_tuning(grid, methods, chosen)
        print(tuning.summary(), flush=True)
        store = Store(options.runs)
        status = _launch(options, grid, tuning.families(None if options.retry_failed else store))
        if missing(tuning.families(store), store, sys.maxsize)[0]:  # what failed, but for what diverged
            return status
        scored += choose(tuning, options.runs)
    for file in write_choice(whole, scored, options.grid):
        print(f"wrote {file}")
    return 0


def _status(options: argparse.Namespace) -> int:
    from bench.launch.status import grid_status

    grid = _read_grid(options)
    data, lines, complete = grid_status(grid, options.runs)
    print(json.dumps(data, indent=2) if options.json else "\n".join(lines))
    return 0 if complete else 1


def _cancel(options: argparse.Namespace) -> int:
    from bench.launch.launcher import get_launcher, launcher_names

    grid = _read_grid(options)
    keys = {family.key for family in grid.families()}
    lines = []
    for name in launcher_names():
        cancel = get_launcher(name).cancel
        lines += cancel(options.runs, keys) if cancel else []
    print("\n".join(lines) or f"nothing of {grid.name} waits or runs")
    return 0


def _logs(options: argparse.Namespace) -> int:
    from bench.launch.logs import logs

    if options.lines < 1:
        raise ValueError(f"--lines {options.lines}: give at least 1.")
    print(logs(options.runs, options.key, options.lines))
    return 0


def _leaderboard(options: argparse.Namespace) -> int:
    from analysis.tables.leaderboard import check_leaderboard, write_leaderboard

    if options.check:
        stale = check_leaderboard(options.runs, options.out)
        for line in stale:
            print(line)
        if stale:
            print(
                f"bench: {options.out} is stale. Write it anew: bench leaderboard --runs {options.runs} "
                f"--out {options.out}",
                file=sys.stderr,
            )
        return 1 if stale else 0
    if options.add and (status := _merge_into(options.runs, options.add, dry_run=False)):
        return status
    rows = write_leaderboard(options.runs, options.out)
    print(f"wrote {options.out}: {rows} rows")
    return 0


def _merge(options: argparse.Namespace) -> int:
    return _merge_into(options.runs, options.sources, options.dry_run)


def _merge_into(runs: Path, sources: Sequence[Path], dry_run: bool) -> int:
    from bench.store.merge import Refused, describe, merge_stores

    try:
        merged = merge_stores(sources, runs, dry_run)
    except Refused as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print("\n".join([*describe(merged), f"{runs}: {merged.summary(dry_run)}"]))
    return 0


def _report(options: argparse.Namespace) -> int:
    from analysis.report import write_report

    for file in write_report(options.runs, options.out, options.baseline):
        print(f"wrote {file}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from analysis.tables.reproduction import compare_published

    text, written = compare_published(options.runs, options.out)
    print(text)
    for file in written:
        print(f"wrote {file}")
    return 0


def _show(options: argparse.Namespace) -> int:
    from bench.store.store import Store, read_whole

    folder = Store(options.runs).find(options.key)
    spec, facts = read_whole(folder / "spec.json"), read_whole(folder / "facts.json")
    print(json.dumps({"folder": str(folder), "spec": spec, "facts": facts}, indent=2))
    return 0


def _list(options: argparse.Namespace) -> int:
    from bench.cli.listing import list_methods, list_tasks, render
    from bench.registry import load_plugin

    for plugin in options.plugin:
        load_plugin(plugin)
    rows = list_methods() if options.what == "methods" else list_tasks()
    print(json.dumps(rows, indent=2) if options.json else render(rows))
    return 0
