"""Commands that read results: `report`, `leaderboard`, `compare`, `show`, `merge`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.cli.app import RESULTS, command
from bench.cli.complete import keys
from bench.cli.options import RUNS, Runs
from bench.cli.paths import check_file, check_output_file, check_output_folder
from bench.cli.terminal import complain, say, warn


@command(RESULTS)
def report(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write to.")] = Path("report"),
    baseline: Annotated[
        str | None,
        typer.Option(metavar="METHOD", help="Method that differences and costs are relative to.", show_default="adamw"),
    ] = None,
    main_variant: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Variant that opens the report.", show_default="the one with most results"),
    ] = None,
    runs: Runs = RUNS,
) -> None:
    """Write tables, figures and report.html from the stored results."""
    from analysis.report import write_report

    check_output_folder(out, "--out")
    for file in write_report(runs, out, baseline, main_variant):
        say(f"wrote {file}")


@command(RESULTS)
def leaderboard(
    out: Annotated[Path, typer.Option(metavar="FILE", help="CSV file to write.")] = Path("leaderboard.csv"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 if the file differs from the results.")
    ] = False,
    add: Annotated[
        list[Path], typer.Option(metavar="DIR", help="Merge this store into --runs first.", show_default=False)
    ] = [],  # noqa: B006  (typer reads it, and makes a new list for each call)
    also: Annotated[
        list[Path],
        typer.Option(
            metavar="DIR", help="Also list the results of this store, before those of --runs.", show_default=False
        ),
    ] = [],  # noqa: B006  (as above)
    runs: Runs = RUNS,
) -> int:
    """Write leaderboard.csv from the stored results."""
    from analysis.tables.leaderboard import check_leaderboard, write_leaderboard

    if check and add:
        raise ValueError("--check writes nothing, so it does not go with --add: drop one of them.")
    if check:
        check_file(out, "--out")
        stale = check_leaderboard([*also, runs], out)
        for line in stale:
            say(line)
        if stale:
            named = "".join(f" --also {store}" for store in also)
            complain(f"{out} is stale. Write it again: bench leaderboard{named} --runs {runs} --out {out}")
        return 1 if stale else 0
    check_output_file(out, "--out")
    if add and (status := _merge(runs, add, dry_run=False)):
        return status
    rows = write_leaderboard([*also, runs], out)
    say(f"wrote {out}: {rows} rows")
    return 0


@command(RESULTS)
def compare(
    reference: Annotated[
        Literal["published"], typer.Argument(metavar="published", help="A paper's table.", show_default=False)
    ],
    table: Annotated[
        Literal["table1", "polar"], typer.Option(help="table1: Cong et al. 2024. polar: averages for Llama-3.1-8B.")
    ] = "table1",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write published.md and published.csv here.")
    ] = None,
    runs: Runs = RUNS,
) -> None:
    """Compare the stored results with published ones."""
    from analysis.tables.reproduction import compare_published

    if out is not None:
        check_output_folder(out, "--out")

    text, written = compare_published(runs, out, table)
    say(text)
    for file in written:
        say(f"wrote {file}")


@command(RESULTS)
def show(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY", help="A key, or its first four or more digits.", show_default=False, autocompletion=keys
        ),
    ],
    runs: Runs = RUNS,
) -> None:
    """Show a stored fit or evaluation: its spec and its facts."""
    from bench.specs import FitSpec, RunSpec
    from bench.store.records import DamagedRecord, read_spec
    from bench.store.store import Store, read_whole

    folder = Store(runs).find(key)
    spec, facts = read_whole(folder / "spec.json"), read_whole(folder / "facts.json")
    say(json.dumps({"folder": str(folder), "spec": spec, "facts": facts}, indent=2))
    try:
        if folder.parent.name == "fits":
            read_spec(folder, FitSpec)
        else:
            read_spec(folder, RunSpec)
    except DamagedRecord as error:  # it was changed, and is still worth a look
        warn(error)


@command(RESULTS)
def merge(
    sources: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Stores to copy from.", show_default=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be copied, and copy nothing.")] = False,
    runs: Runs = RUNS,
) -> int:
    """Copy the results of other stores into --runs, once all of them have been checked."""
    return _merge(runs, sources, dry_run)


def _merge(runs: Path, sources: Sequence[Path], dry_run: bool) -> int:
    from bench.store.merge import Refused, merge_stores
    from bench.store.store import Store

    try:
        merged = merge_stores([Store(source) for source in sources], Store(runs), dry_run)
    except Refused as error:
        complain(error)
        return 1
    say("\n".join([*merged.describe(), f"{runs}: {merged.summary(dry_run)}"]))
    return 0
