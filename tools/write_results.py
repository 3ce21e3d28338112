"""Write the tables of results/small into README.md and results/README.md, between their markers.

    python -m tools.write_results            # needs neither network nor weights nor a GPU
    python -m tools.write_results --check    # exit with 1 if a page is not what the records say

Everything between ``<!-- small: NAME -->`` and ``<!-- /small -->`` on a page is replaced by the part of that name.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from analysis.records.groups import Section
from analysis.records.order import row_names
from analysis.statistics.differences import compare
from analysis.statistics.metric import metric_of
from analysis.statistics.study import Study, study
from analysis.tables.formats.markdown import Markup, bold, table
from analysis.tables.formats.marks import marks
from analysis.tables.orderings import HOLDS, OPEN, REVERSED, Ordering, orderings, section_text
from analysis.tables.results import blocks
from tools.pages import ROOT, write

PAGES = ("README.md", "results/README.md")
SHOWN = ("accuracy", "ece", "nll", "brier")


def results(known: Study, section: Section) -> str:
    """Methods down, metrics across: mean over seeds and standard error, the best in bold, marks of differences."""
    groups = known.of(section)
    shown = {block.metric.name: block for block in blocks(groups, known.baseline) if block.metric.name in SHOWN}
    marked = marks(known.once(compare)[0])
    (task,) = {group.task for group in groups}
    rows = []
    for name in row_names(groups, known.baseline):
        group = next(one for one in groups if one.name == name)
        row: list[str] = [group.title]
        for metric in SHOWN:
            block = shown[metric]
            cell = block.cells[name, task]
            text = block.metric.show(cell.mean)
            spread = "" if cell.sem is None else f" ± {block.metric.show(cell.sem)}"
            mark = marked.get((section, name, task, metric), "")
            text = bold(text) if block.best(name, task) else text
            row.append(Markup(f"{text}{spread} {mark}".rstrip()))
        rows.append([*row, str(len(group.seeds))])
    return table([task, *(metric_of(metric).heading for metric in SHOWN), "seeds"], rows)


def held(found: list[Ordering]) -> str:
    """A line per metric: which of the paper's differences from AdamW hold, are reversed or are open."""
    lines = []
    for metric in SHOWN:
        here = [one for one in found if one.ours.metric == metric]
        told = [
            f"{verdict} for {', '.join(one.ours.group.title for one in here if one.verdict == verdict)}"
            for verdict in (HOLDS, REVERSED, OPEN)
            if any(one.verdict == verdict for one in here)
        ]
        lines.append(f"* {metric_of(metric).title}: {'; '.join(told)}\n")
    counts = {verdict: sum(one.verdict == verdict for one in found) for verdict in (HOLDS, REVERSED, OPEN)}
    head = (
        f"Of {len(found)} published differences from AdamW, {counts[HOLDS]} hold, {counts[REVERSED]} are reversed and "
        f"{counts[OPEN]} are open:\n\n"
    )
    return head + "".join(lines)


def parts(store: Path) -> dict[str, str]:
    """The parts of the pages by name."""
    known = study(store)
    (section,) = known.sections
    found = orderings(known)
    return {
        "results": results(known, section),
        "held": held(found),
        "orderings": section_text(section, found).partition("\n\n")[2],  # without its heading
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    return write(ROOT, PAGES, "small", parts(ROOT / "results" / "small"), args.check)


if __name__ == "__main__":
    raise SystemExit(main())
