"""Everything that a GPU must tell about the suite, in one run that survives being cut off.

    python tools/gpu.py --out gpu.json [--parts smoke,7b_int8] [--seconds 480] [--mps]
    python tools/gpu.py --out gpu.json --tiny          # the same code at a tiny shape, on a CPU too

Bases are randomly initialised at the shape of Llama-2-7B and of Qwen2.5-0.5B, prompts have the lengths of ARC-E's, the
models, methods and training loop are the suite's own. The JSON is written as figures become known; a part that fails
leaves its error there and the next one starts; one that no longer fits into ``--seconds`` is left out and says so.

Parts: machine, smoke (every registered method for 5 steps on the embedded base), 7b_bf16, 7b_int8, 7b_nf4 (passes,
draws, optimizer steps, curvature, predictives; time and peak memory of each), 05b (the same in bfloat16), graphs (a
0.5 B training step eager and with CUDA graphs, and the kernels of its pieces), workers (1, 4, 8 processes on the card;
with ``--mps`` under NVIDIA's MPS too), compile (that step with compiled layers, with and without CUDA graphs, warm-up
counted apart).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without an installation, too

from tools.gpu_common import Bench, failure
from tools.gpu_parts import shape
from tools.gpu_speed import compiled, graphs
from tools.gpu_workers import worker, workers


def machine(b: Bench) -> dict[str, Any]:
    """Versions, and the two ceilings: copy bandwidth (bytes read and written) and a large bfloat16 product."""
    versions = {}
    for name in ("torch", "transformers", "peft", "bitsandbytes", "laplace", "datasets"):
        with contextlib.suppress(ImportError):
            versions[name] = getattr(__import__(name), "__version__", "?")
    items = 2**10 if b.tiny else 2**30
    source = torch.empty(items, dtype=torch.bfloat16, device=b.device).normal_()
    target = torch.empty_like(source)
    copy = b.milliseconds(lambda: target.copy_(source))
    return {
        "versions": versions,
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "device": torch.cuda.get_device_name(b.device) if b.device.type == "cuda" else platform.processor(),
        "cpus": os.cpu_count(),
        "matmul_tflops": b.ceiling() / 1e12,
        "copy_gb_per_s": 4 * items / (copy["ms"] / 1e3) / 1e9,
    }


def smoke(b: Bench) -> dict[str, Any]:
    """Each registered method for 5 steps on the embedded base through ``bench run``; the GPU against the CPU."""
    from safetensors.torch import load_file

    from bench.cli.main import main

    def run(method: str, store: str, *more: str) -> tuple[int, str, Path]:
        out, runs = io.StringIO(), b.folder / "smoke" / store
        asked = ["run", "--method", method, "--task", "notes_two", "--set", "steps=5", "--runs", str(runs), *more]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            status = main(asked)
        return status, out.getvalue()[-600:], runs

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main(["list", "methods", "--json"])
    listed = json.loads(out.getvalue())
    names = [item["name"] if isinstance(item, dict) else item for item in listed]
    found: dict[str, Any] = {}
    for name in names[:2] if b.tiny else names:
        began = time.perf_counter()
        status, said, runs = run(name, "device", "--device", b.device.type)
        found[name] = {"passed": status == 0, "seconds": time.perf_counter() - began}
        if status:
            traces = [json.loads(file.read_text()) for file in (runs / "failures").glob("*.json")]
            found[name] |= {"said": said, "failures": [str(trace)[-1500:] for trace in traces[-1:]]}
    for name, more in (("adamw", ()), ("ivon", ("--set", "ivon.lr=0.1", "--set", "ivon.ess=1e12")), ("la_kfac", ())):
        plain = ("--set", "lora.dropout=0", *more)
        ways = {"cpu": ("--device", "cpu"), "device": ("--device", b.device.type)}
        ways["packed"] = ("--device", b.device.type, "--packing")
        if b.device.type == "cuda":
            ways["graphs"] = ("--device", "cuda", "--graphs")
        if b.device.type == "cuda" and name == "adamw":
            ways["compile + graphs"] = ("--device", "cuda", "--compile", "--graphs")
        rows = {}
        for way, flags in ways.items():
            status, said, runs = run(name, f"{name}-{way}", *plain, *flags)
            files = list(runs.glob("evals/*/predictions.safetensors"))
            if status or not files:
                found[f"{name}, {way}"] = {"passed": False, "said": said}
                continue
            tensors = load_file(files[0])
            rows[way] = next(value for value in tensors.values() if value.ndim == 3)
        found[f"{name} against the CPU"] = {
            way: float((row - rows["cpu"]).abs().max()) for way, row in rows.items() if "cpu" in rows
        }
    return found


PARTS: dict[str, tuple[Callable[[Bench], dict[str, Any]], float]] = {  # name -> (part, seconds it needs at most)
    "machine": (machine, 20),
    "smoke": (smoke, 120),
    "05b": (lambda b: shape(b, "qwen_05b", "none"), 40),
    "graphs": (graphs, 40),
    "7b_bf16": (lambda b: shape(b, "llama_7b", "none"), 60),
    "7b_int8": (lambda b: shape(b, "llama_7b", "int8"), 90),
    "7b_nf4": (lambda b: shape(b, "llama_7b", "nf4"), 90),
    "workers": (workers, 120),
    "compile": (compiled, 120),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: to test this program on a CPU")
    parser.add_argument("--mps", action="store_true", help="measure workers under NVIDIA's MPS too")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := [name for name in args.parts.split(",") if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]}: {', '.join(PARTS)}")
    torch.backends.cuda.enable_cudnn_sdp(False)  # as the suite's workers do, for its NaN gradients
    with tempfile.TemporaryDirectory() as folder:
        ends = time.monotonic() + args.seconds
        b = Bench(torch.device(args.device), args.tiny, Path(folder), ends=ends, mps=args.mps)
        if args.worker is not None:
            worker(b, args.worker, args.number)
            return
        measure(b, args.parts.split(","), args.out)


def measure(b: Bench, names: list[str], out: Path) -> dict[str, Any]:
    """Run the parts in turn; ``out`` is whole at any time."""
    b.out, found = out, b.found
    for name in names:
        part, needs = PARTS[name]
        since = time.monotonic()
        found[name] = b.part = {}
        if since + needs > b.ends:
            b.part["skipped"] = "out of time"
        else:
            with failure(b.part):
                b.part |= part(b)
            b.part["part_seconds"] = time.monotonic() - since
        gc.collect()
        if b.device.type == "cuda":
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()
        b.write()
        print(f"{name}: {time.monotonic() - since:.0f} s{' ERROR' if 'error' in found[name] else ''}", flush=True)
    return found


if __name__ == "__main__":
    main()
