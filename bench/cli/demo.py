"""``bench demo``: the suite on synthetic tasks, from training to the report; needs no network and no GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.app import RUN, command
from bench.cli.launching import grid_of, launch
from bench.cli.options import ExecutionOptions, LaunchOptions, SpecOptions, Workers
from bench.cli.paths import check_output_folder
from bench.cli.terminal import complain, say


@command(RUN)
def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="One task and short trainings: under two minutes on two cores.")
    ] = False,
    workers: Workers = 2,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the report.")] = Path("report"),
    runs: Annotated[Path, typer.Option("--runs", metavar="DIR", help="The store.")] = Path("runs/demo"),
) -> int:
    """Compare the methods on synthetic tasks, write the report and print its first table."""
    check_output_folder(out, "--out")
    import bench.grids
    from analysis.report import write_report

    file = Path(next(iter(bench.grids.__path__))) / ("quick.toml" if quick else "demo.toml")
    grid = grid_of(file, SpecOptions())
    status = launch(grid, grid.families(), runs, ExecutionOptions(), LaunchOptions(workers=workers))
    if status:
        return status
    tables, page, *_ = write_report(runs, out)
    say(_opening(tables.read_text()))
    complain(f"the whole report: {page}")
    return 0


def _opening(markdown: str) -> str:
    """The first table of a report: what stands before its second heading of the second level."""
    parts = markdown.split("\n## ")
    return "\n## ".join(parts[:2]).strip()
