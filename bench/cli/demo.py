"""``bench demo``: the suite on synthetic tasks, from training to the report; needs no network and no GPU."""

from __future__ import annotations

import time
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
    """Compare the methods on synthetic tasks, write the report, and print its first table and the clear differences."""
    check_output_folder(out, "--out")
    import bench.grids
    from analysis.report import write_report
    from analysis.tables import variants
    from bench.store.display import note_main_variant

    file = Path(next(iter(bench.grids.__path__))) / ("quick.toml" if quick else "demo.toml")
    began = time.monotonic()
    grid = grid_of(file, SpecOptions())
    status = launch(grid, grid.families(), runs, ExecutionOptions(), LaunchOptions(workers=workers))
    if status:
        return status
    if grid.main_variant is not None:
        note_main_variant(runs, grid.main_variant)
    tables, page, *_ = write_report(runs, out)
    text = tables.read_text()
    say(f"{_opening(text)}\n\n{_part(text, variants.TABLE.heading)}")
    complain(f"{(time.monotonic() - began) / 60:.1f} minutes; the whole report: {page}")
    return 0


def _opening(markdown: str) -> str:
    """The first table of a report: what stands before its second heading of the second level."""
    parts = markdown.split("\n## ")
    return "\n## ".join(parts[:2]).strip()


def _part(markdown: str, heading: str) -> str:
    """A part of a report, from its heading of the second level to the next."""
    return "## " + next(part for part in markdown.split("\n## ") if part.startswith(f"{heading}\n")).strip()
