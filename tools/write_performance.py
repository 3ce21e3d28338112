"""Write docs/performance.md from the JSON files that the tools measured.

python -m tools.write_performance [--results results] [--out docs/performance.md]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
UNMEASURED = "unmeasured"
SCRIPTS = {  # file of results/cpu: heading
    "time_step_train": "A training step",
    "time_step_predict": "Prediction",
    "time_ivon": "IVON's draw and step",
    "time_curvature": "Curvature for Laplace",
    "time_launch": "Workers",
    "time_report": "Leaderboard and report",
}
GPU_PARTS = {  # part of tools/gpu.py: what it measures
    "smoke": "every method for 5 steps, against the CPU",
    "05b": "0.5 B base: steps, draws, curvature",
    "graphs": "0.5 B base with CUDA graphs",
    "7b_bf16": "7 B base in bfloat16: steps, draws, curvature, memory",
    "7b_int8": "the same in int8",
    "7b_nf4": "the same in nf4",
    "workers": "several processes on one card",
    "compile": "torch.compile",
}
HEAD = """# Performance

`tools/write_performance.py` writes this page from `results/cpu` and `results/gpu`: do not edit it. `make bench`
measures the CPU part again and rewrites the page. Contestants take turns in one process; a ratio is the median of the
ratios within the rounds, with its range. The load is that of the machine, with what else ran on it.
"""


def page(results: Path) -> str:
    """The page for a folder of results."""
    parts = [HEAD, "## On a CPU\n"]
    for name, heading in SCRIPTS.items():
        file = results / "cpu" / f"{name}.json"
        found = json.loads(file.read_text()) if file.is_file() else None
        parts += [f"### {heading}\n", _section(found) if found else f"{UNMEASURED.capitalize()}.\n"]
    parts += ["## On a GPU\n", _workers(results / "gpu"), _parts(results / "gpu")]
    return "\n".join(parts)


def _section(found: Mapping[str, Any]) -> str:
    machine, settings = found["machine"], found["settings"]
    about = ", ".join(f"{name} {value}" for name, value in settings.items())
    libraries = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [
        f"{found['question'][0].upper()}{found['question'][1:]}. {found['date']}, {machine['processor']}, "
        f"{machine['cores']} cores (load {machine['load']} at the end), Python {machine['python']}, {libraries}. "
        f"Settings: {about or 'none'}.\n",
        *_table(
            ("", "median, ms", "range, ms", "rounds"),
            [
                (name, _ms(one["median"]), f"{_ms(one['min'])} to {_ms(one['max'])}", one["rounds"])
                for name, one in found["seconds"].items()
            ],
        ),
    ]
    if found["ratios"]:
        rows = [
            (one["what"], one["against"], f"{one['median']:.2f}", _range(one), *_aim(one)) for one in found["ratios"]
        ]
        lines += _table(("", "against", "ratio", "range", "target", "met"), rows)
    if found.get("further"):
        lines += _table(("", "value"), [(name, f"{value:.0f}") for name, value in found["further"].items()])
    return "\n".join(lines)


def _range(one: Mapping[str, Any]) -> str:
    return f"{one['min']:.2f} to {one['max']:.2f}"


def _aim(one: Mapping[str, Any]) -> tuple[str, str]:
    if one["target"] is None:
        return "-", "-"
    return f"at most {one['target']:.2f}", "yes" if one["median"] <= one["target"] else "no"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A Markdown table, with an empty line behind it; all columns but the first to the right."""
    lines = [heads, ["---"] + ["--:"] * (len(heads) - 1), *rows]
    return [*(f"| {' | '.join(map(str, line))} |" for line in lines), ""]


def _workers(folder: Path) -> str:
    """Training steps per second of several processes on one card."""
    file, columns = folder / "workers.json", ("eager", "graphs")
    if not file.is_file():
        return f"Several workers on one card: {UNMEASURED}.\n"
    ways = json.loads(file.read_text())["parts"]["workers"]
    counts = sorted({int(name.rpartition(" ")[2]) for name in ways["plain"]})
    rows = [
        (n, *(_rate(ways.get(way, {}).get(f"{column}, {n}")) for way in ("plain", "mps") for column in columns))
        for n in counts
    ]
    heads = ("processes on one card", "eager", "CUDA graphs", "eager, MPS", "CUDA graphs, MPS")
    about = "Training steps per second of a 0.5 B base (random weights, bfloat16, batch 4), see `results/README.md`.\n"
    return "\n".join([about, *_table(heads, rows)])


def _rate(found: Mapping[str, float] | None) -> str:
    return f"{found['steps_per_s']:.1f}" if found and "steps_per_s" in found else UNMEASURED


def _parts(folder: Path) -> str:
    """Which parts of tools/gpu.py have figures."""
    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*.json")):
        found.update(json.loads(file.read_text())["parts"])
    about = ""
    if "machine" in found:
        about = (
            f"{found['machine']['device']}: {found['machine']['matmul_tflops']:.0f} TFLOP/s in a bfloat16 product.\n\n"
        )
    rows = [(what, _state(found.get(part))) for part, what in GPU_PARTS.items()]
    return about + "\n".join(_table(("part of `tools/gpu.py`", "state"), rows))


def _state(part: Mapping[str, Any] | None) -> str:
    if part is None:
        return UNMEASURED
    if "error" in part:
        return f"failed, {UNMEASURED}"
    tried = [one for one in part.values() if isinstance(one, dict) and "passed" in one]
    return f"{sum(one['passed'] for one in tried)} of {len(tried)} passed" if tried else "measured"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "performance.md")
    options = parser.parse_args()
    options.out.write_text(page(options.results))


if __name__ == "__main__":
    main()
