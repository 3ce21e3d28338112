"""Write docs/performance.md from the JSON files that the tools measured.

python -m tools.write_performance [--results results] [--out docs/performance.md]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools import performance_gpu
from tools.performance_gpu import UNMEASURED, table

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = {  # file of results/cpu: heading
    "time_step_train": "A training step in float32",
    "time_step_train_bf16": "A training step in bfloat16",
    "time_step_predict": "Prediction",
    "time_loop": "The loop on the embedded base",
    "time_ivon": "IVON's draw and step",
    "time_laplace": "Laplace, fit and predictive",
    "time_curvature": "Curvature for Laplace",
    "time_rows": "Table 1",
    "time_launch": "Workers",
    "time_store": "The store",
    "time_report": "Leaderboard and report",
    "time_growth": "How costs grow",
}
HEAD = """# Performance

`tools/write_performance.py` writes this page from `results/cpu`, `results/gpu` and `results/tried.md`: do not edit it.
`make bench` measures the CPU part again and rewrites the page. Contestants take turns in one process; a ratio is the
median of the ratios within the rounds, with its range. The load is that of the machine, with what else ran on it.
"""


def page(results: Path) -> str:
    """The page for a folder of results."""
    parts = [HEAD, "## On a CPU\n"]
    for name, heading in SCRIPTS.items():
        file = results / "cpu" / f"{name}.json"
        found = json.loads(file.read_text()) if file.is_file() else None
        parts += [f"### {heading}\n", _section(found) if found else f"{UNMEASURED.capitalize()}.\n"]
    parts += ["## On a GPU\n", performance_gpu.section(results / "gpu")]
    tried = results / "tried.md"  # written by hand: reasons, where a target is missed
    return "\n".join([*parts, tried.read_text()] if tried.is_file() else parts)


def _section(found: Mapping[str, Any]) -> str:
    machine, settings = found["machine"], found["settings"]
    about = ", ".join(f"{name} {value}" for name, value in settings.items())
    libraries = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [
        f"{found['question'][0].upper()}{found['question'][1:]}. {found['date']}, {machine['processor']}, "
        f"{machine['cores']} cores (load {machine['load']} at the end), Python {machine['python']}, {libraries}. "
        f"Settings: {about or 'none'}.\n",
    ]
    if "slopes" not in found:  # those say the same in fewer rows
        lines += table(
            ("", "median, ms", "range, ms", "rounds"),
            [
                (name, _ms(one["median"]), f"{_ms(one['min'])} to {_ms(one['max'])}", one["rounds"])
                for name, one in found["seconds"].items()
            ],
        )
    if found["ratios"]:
        rows = [
            (one["what"], one["against"], f"{one['median']:.2f}", _range(one), *_aim(one)) for one in found["ratios"]
        ]
        lines += table(("", "against", "ratio", "range", "target", "met"), rows)
    if found.get("further"):
        lines += table(("", "value"), [(name, f"{value:.0f}") for name, value in found["further"].items()])
    if "profile" in found:
        lines += _profile(found["profile"])
    if "slopes" in found:
        lines += _slopes(found["slopes"])
    return "\n".join(lines)


def _profile(sides: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Where the milliseconds of a step go."""
    parts = list(next(iter(sides.values())))
    rows = [(part, *(f"{side[part]:.2f}" for side in sides.values())) for part in parts]
    whole = ("a step", *(f"{sum(side.values()):.2f}" for side in sides.values()))
    return table(("part of a step, ms of time", *sides), [*rows, whole])


def _slopes(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The slopes of log cost in log size: 1 is a cost in proportion, 0 one that does not depend on the size."""
    heads = ("", "against", "sizes", "slope of time", "slope of memory", "peak, MiB")
    rows = [
        (
            one["what"],
            one["against"],
            ", ".join(map(str, one["sizes"])),
            f"{one['time']:.2f}",
            f"{one['memory']:.2f}",
            ", ".join(f"{value:.1f}" for value in one["peak_mib"]),
        )
        for one in found
    ]
    return [f"{_slopes.__doc__}\n", *table(heads, rows)]


def _range(one: Mapping[str, Any]) -> str:
    return f"{one['min']:.2f} to {one['max']:.2f}"


def _aim(one: Mapping[str, Any]) -> tuple[str, str]:
    if one["target"] is None:
        return "-", "-"
    return f"at most {one['target']:.2f}", "yes" if one["median"] <= one["target"] else "no"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "performance.md")
    options = parser.parse_args()
    options.out.write_text(page(options.results))


if __name__ == "__main__":
    main()
