"""The GPU half of docs/performance.md, from what tools/gpu.py wrote. What no file has is called unmeasured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

UNMEASURED = "unmeasured"
PARTS = {  # part of tools/gpu.py: what it measures
    "smoke": "every method for 5 steps, against the CPU",
    "05b": "0.5 B base: steps, draws, curvature",
    "graphs": "0.5 B base with CUDA graphs",
    "7b_bf16": "7 B base in bfloat16: steps, draws, curvature, memory",
    "7b_int8": "the same in int8",
    "7b_nf4": "the same in nf4",
    "workers": "several processes on one card",
    "compile": "torch.compile",
}
BASES = {"05b": "0.5 B, bf16", "7b_bf16": "7 B, bf16", "7b_int8": "7 B, int8", "7b_nf4": "7 B, nf4"}
PEAK = "peak_mib"
OPERATIONS: dict[str, tuple[str, ...]] = {  # row: path of its milliseconds in a base's part
    "forward and backward, 4 prompts": ("forward_backward", "ms"),
    "training step, AdamW": ("training step of adamw", "ms"),
    "training step, IVON": ("training step of ivon", "ms"),
    "AdamW step": ("adamw_step", "ms"),
    "IVON draw + step, noise from the device": ("ivon_draw_and_step, noise from device", "ms"),
    "IVON draw + step, noise from the CPU": ("ivon_draw_and_step, noise from cpu", "ms"),
    "SWAG collection": ("swag_collection", "ms"),
    "curvature per example, diagonal": ("la_diag", "curvature_ms_per_example"),
    "curvature per example, KFAC": ("la_kfac", "curvature_ms_per_example"),
    "linearised predictive of 8 prompts, diagonal": ("la_diag", "linearised_predictive", "ms"),
    "linearised predictive of 8 prompts, KFAC": ("la_kfac", "linearised_predictive", "ms"),
    "10 draws of 8 prompts, looped": ("ten_draws", "looped", "ms"),
    "10 draws of 8 prompts, side by side": ("ten_draws", "batched", "ms"),
    "10 draws of 80 prompts, looped": ("ten_draws", "looped, as many rows a pass", "ms"),
}
WAYS = {"eager": "eager", "graphs": "CUDA graphs", "compile": "compiled", "compile + graphs": "compiled, CUDA graphs"}
Cells = Sequence[Sequence[Any]]


def section(folder: Path) -> str:
    """The lines below the heading, for a folder of JSON files."""
    found = measured(folder)
    return "\n".join(
        [_machine(found), *_operations(found), *_step(found), *_workers(found), *_targets(found), *_states(found)]
    )


def measured(folder: Path) -> dict[str, Any]:
    """The parts of all files, later names first; a part that failed or was left out replaces none with figures."""
    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*.json")):
        for name, part in json.loads(file.read_text())["parts"].items():
            if name not in found or not ({"error", "skipped"} & set(part)):
                found[name] = part
    return found


def table(heads: Sequence[str], rows: Cells) -> list[str]:
    """A Markdown table, with an empty line behind it; all columns but the first to the right."""
    lines = [heads, ["---"] + ["--:"] * (len(heads) - 1), *rows]
    return [*(f"| {' | '.join(map(str, line))} |" for line in lines), ""]


def value(found: Mapping[str, Any], *path: str) -> float | None:
    """The number at a path; None where there is none."""
    node: Any = found
    for name in path:
        node = node.get(name) if isinstance(node, Mapping) else None
    return node if isinstance(node, int | float) else None


def _shown(number: float | None, form: Callable[[float], str] = "{:.3g}".format) -> str:
    return UNMEASURED if number is None else form(number)


def _machine(found: Mapping[str, Any]) -> str:
    machine = found.get("machine")
    if machine is None:
        return f"Machine: {UNMEASURED}.\n"
    return (
        f"{machine['device']}: {machine['matmul_tflops']:.0f} TFLOP/s in a bfloat16 product, "
        f"{machine['copy_gb_per_s']:.0f} GB/s in a copy. Bases have random weights, prompts the lengths of ARC-E's. "
        "See `results/README.md`.\n"
    )


def _operations(found: Mapping[str, Any]) -> list[str]:
    """Milliseconds, peak memory and shares of each base."""

    def cell(base: str, path: tuple[str, ...]) -> str:
        ms, peak = value(found, base, *path), value(found, base, *path[:-1], PEAK)
        return _shown(ms) + (f" ({peak / 1024:.1f})" if ms is not None and peak is not None else "")

    def speed(base: str) -> str:
        return _shown(value(found, base, "forward_backward", "tokens_per_s"), "{:.0f}".format)

    rows = [(name, *(cell(base, path) for base in BASES)) for name, path in OPERATIONS.items()]
    shares = {
        "tokens per s, forward and backward": speed,
        "share of the matmul ceiling": lambda base: _percent(value(found, base, "forward_backward", "share_of_matmul")),
        "IVON draw + step, share of its training step": lambda base: _percent(
            value(found, base, "share of IVON in its step", "device")
        ),
        "the same, noise from the CPU": lambda base: _percent(value(found, base, "share of IVON in its step", "cpu")),
    }
    rows += [(name, *map(show, BASES)) for name, show in shares.items()]
    about = "Milliseconds; in brackets the peak memory in GiB.\n"
    return ["### Passes, steps and predictives\n", about, *table(("", *BASES.values()), rows)]


def _percent(number: float | None) -> str:
    return _shown(number, "{:.2%}".format)


def best_step(found: Mapping[str, Any], method: str, way: str) -> float | None:
    """Milliseconds of a 0.5 B training step, from part compile, else from part graphs."""
    times = (value(found, part, f"{method}, {way}", "ms_per_step") for part in ("compile", "graphs"))
    return next((time for time in times if time is not None), None)


def _step(found: Mapping[str, Any]) -> list[str]:
    """A 0.5 B training step by its four ways, and its kernels."""
    rows = []
    for way, name in WAYS.items():
        row = [name]
        for method in ("adamw", "ivon"):
            ms, eager = best_step(found, method, way), best_step(found, method, "eager")
            starts = [value(found, part, f"{method}, {way}", "start_seconds") for part in ("compile", "graphs")]
            start = next((one for one in starts if one is not None), None)
            ratio = ms / eager if ms is not None and eager else None
            row += [_shown(ms, "{:.1f}".format), _shown(ratio, "{:.2f}".format), _shown(start, "{:.1f}".format)]
        rows.append(row)
    heads = [f"{method}{what}" for method in ("AdamW", "IVON") for what in (", ms", " / eager", ", warm-up in s")]
    lines = ["### A training step of a 0.5 B base\n", *table(("", *heads), rows)]
    kernels = found.get("graphs", {}).get("kernels")
    pieces = [(name, count) for name, count in kernels.items()] if kernels else []
    return lines + (table(("piece of an eager step", "kernels"), pieces) if pieces else [f"Kernels: {UNMEASURED}.\n"])


def _workers(found: Mapping[str, Any]) -> list[str]:
    """Training steps per second of several processes on one card."""
    ways = found.get("workers", {})
    names = [name for way in ("plain", "mps") for name in ways.get(way, {}) if ", " in name]
    counts = sorted({int(name.rpartition(" ")[2]) for name in names})
    if not counts:
        return [f"Several workers on one card: {UNMEASURED}.\n"]

    def rate(way: str, column: str, n: int) -> str:
        return _shown(value(ways, way, f"{column}, {n}", "steps_per_s"), "{:.1f}".format)

    rows = [(n, *(rate(way, column, n) for way in ("plain", "mps") for column in ("eager", "graphs"))) for n in counts]
    heads = ("processes on one card", "eager", "CUDA graphs", "eager, MPS", "CUDA graphs, MPS")
    about = "Training steps per second of a 0.5 B base (random weights, bfloat16, batch 4), see `results/README.md`.\n"
    return ["### Several workers on one card\n", about, *table(heads, rows)]


def _targets(found: Mapping[str, Any]) -> list[str]:
    """What was aimed at, and whether it was met."""
    share = value(found, "7b_int8", "share of IVON in its step", "device")
    eager = best_step(found, "adamw", "eager")
    fast = [ms for way in WAYS if way != "eager" and (ms := best_step(found, "adamw", way)) is not None]
    workers = {n: {way: _rates(found, way, n) for way in ("eager", "graphs")} for n in (1, 8)}
    alike = workers[8]["eager"] / workers[1]["eager"] if workers[1]["eager"] and workers[8]["eager"] else None
    best = {n: max(rates.values()) for n, rates in workers.items()}
    gain = best[8] / best[1] if best[1] and best[8] else None
    peaks = [
        peak
        for path in OPERATIONS.values()
        if (peak := value(found, "7b_int8", *path[:-1], PEAK)) is not None and "looped, as many rows a pass" not in path
    ]
    rows = [
        _aim("7 B int8: IVON draw + step over its training step", share, 0.002, "{:.2%}"),
        _aim(
            "0.5 B: best step over the eager one (AdamW)", min(fast) / eager if fast and eager else None, 0.5, "{:.2f}"
        ),
        _aim("0.5 B: 8 workers over one, both eager", alike, -3, "{:.2f}"),
        _aim("0.5 B: the best of 8 workers over the best of one", gain, -3, "{:.2f}"),
        _aim("7 B int8: largest peak of any operation, GiB", max(peaks) / 1024 if peaks else None, 24, "{:.1f}"),
    ]
    return ["### Targets\n", *table(("", "measured", "target", "met"), rows)]


def _rates(found: Mapping[str, Any], way: str, n: int) -> float:
    """The better of the steps per second with MPS and without; 0 where neither was measured."""
    rates = (value(found, "workers", share, f"{way}, {n}", "steps_per_s") for share in ("plain", "mps"))
    return max((rate for rate in rates if rate is not None), default=0.0)


def _aim(what: str, number: float | None, bound: float, form: str) -> tuple[str, str, str, str]:
    """A row; a negative bound is a least value."""
    target = f"at {'least' if bound < 0 else 'most'} {form.format(abs(bound))}"
    if number is None:
        return what, UNMEASURED, target, "-"
    met = number >= -bound if bound < 0 else number <= bound
    return what, form.format(number), target, "yes" if met else "no"


def _states(found: Mapping[str, Any]) -> list[str]:
    """Which parts of tools/gpu.py have figures."""
    rows = [(what, _state(found.get(part))) for part, what in PARTS.items()]
    return ["### What was run\n", *table(("part of `tools/gpu.py`", "state"), rows)]


def _state(part: Mapping[str, Any] | None) -> str:
    if part is None or "skipped" in part:
        return UNMEASURED
    if "error" in part:
        return f"failed, {UNMEASURED}"
    tried = [one for one in part.values() if isinstance(one, dict) and "passed" in one]
    failed = [name for name, one in part.items() if isinstance(one, dict) and "error" in one]
    if tried:
        return f"{sum(one['passed'] for one in tried)} of {len(tried)} passed"
    return f"measured, but for {', '.join(failed)}" if failed else "measured"
