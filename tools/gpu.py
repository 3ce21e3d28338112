"""Everything that a GPU must tell about the suite, in one run that survives being cut off.

    python tools/gpu.py --out gpu.json [--parts smoke,7b_int8] [--seconds 480] [--mps]
    python tools/gpu.py --out gpu.json --tiny          # the same code at a tiny shape, on a CPU too

Bases are randomly initialised at the shape of Llama-2-7B and of Qwen2.5-0.5B, prompts have the lengths of ARC-E's, the
models, methods and training loop are the suite's own. After each part the JSON is written again; a part that fails
leaves its error there and the next one starts; one that no longer fits into ``--seconds`` is left out and says so.

Parts: machine, smoke (every registered method for 5 steps on the embedded base), 7b_bf16, 7b_int8, 7b_nf4 (passes,
draws, optimizer steps, curvature, predictives; time and peak memory of each), 05b (the same in bfloat16), graphs (a
0.5 B step eager and with CUDA graphs), workers (1, 4, 8 processes on the card; with ``--mps`` under NVIDIA's MPS too),
compile (``torch.compile`` of the loss, warm-up counted).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without an installation, too

from bench.data.batches import Encoded
from bench.method import PredictJob
from bench.model.choice_model import ChoiceModel
from bench.posterior import DiagGaussian, Point
from bench.specs import DataSpec, FitSpec, TrainSpec
from bench.train.graphs import CudaRecorder, GraphedLoss
from bench.train.loop import Checkpointing, FitJob
from methods.adamw import AdamW
from methods.ivon import Ivon
from methods.ivon.optimizer import IVON
from methods.laplace import LaplaceDiag, LaplaceKfac
from methods.swa import Moments
from tools.gpu_bases import ANSWERS, prompts, random_model, stacked

LENGTHS = Path(__file__).parent / "arc_e_lengths.json"
DRAWS = 10


@dataclasses.dataclass
class Bench:
    """What every part needs."""

    device: torch.device
    tiny: bool
    folder: Path
    matmul: float = 0.0  # measured ceiling, FLOP/s
    ends: float = float("inf")
    mps: bool = False

    def lengths(self, count: int) -> list[int]:
        """The lengths of the first ``count`` ARC-E training prompts."""
        known: list[int] = json.loads(LENGTHS.read_text())["train"]
        return [min(n, 24) if self.tiny else n for n in known[:count]]

    def model(self, shape: str, quantization: str = "none", dropout: float = 0.1) -> ChoiceModel:
        where = self.folder / f"{shape}-{quantization}"
        return random_model(shape, quantization, self.device, where, self.tiny, dropout)

    def data(self, model: ChoiceModel, count: int) -> Encoded:
        return prompts(self.lengths(count), 1500, self.device)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def milliseconds(self, run: Callable[[], Any], repeats: int = 10, warm: int = 2) -> dict[str, float]:
        """Median and spread of ``run``, and the peak memory over what was held before, in MiB."""
        for _ in range(warm):
            run()
        self.synchronize()
        before = self._allocated(reset=True)
        times = []
        for _ in range(2 if self.tiny else repeats):
            began = time.perf_counter()
            run()
            self.synchronize()
            times.append(1e3 * (time.perf_counter() - began))
        found = {"ms": statistics.median(times), "min_ms": min(times), "max_ms": max(times)}
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            found |= {"peak_mib": peak / 2**20, "peak_over_held_mib": (peak - before) / 2**20}
        return found

    def _allocated(self, reset: bool) -> int:
        if self.device.type != "cuda":
            return 0
        if reset:
            torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)


def machine(b: Bench) -> dict[str, Any]:
    """Versions, and the two ceilings: copy bandwidth (bytes read and written) and a large bfloat16 product."""
    versions = {}
    for name in ("torch", "transformers", "peft", "bitsandbytes", "laplace", "datasets"):
        with contextlib.suppress(ImportError):
            versions[name] = getattr(__import__(name), "__version__", "?")
    size, items = (64, 2**10) if b.tiny else (8192, 2**30)
    x, y = (torch.randn(size, size, device=b.device).bfloat16() for _ in range(2))
    product = b.milliseconds(lambda: x @ y)
    b.matmul = 2 * size**3 / (product["ms"] / 1e3)
    source = torch.empty(items, dtype=torch.bfloat16, device=b.device).normal_()
    target = torch.empty_like(source)
    copy = b.milliseconds(lambda: target.copy_(source))
    return {
        "versions": versions,
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "device": torch.cuda.get_device_name(b.device) if b.device.type == "cuda" else platform.processor(),
        "cpus": os.cpu_count(),
        "matmul_tflops": b.matmul / 1e12,
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
    plain = ("--set", "lora.dropout=0", "--set", "ivon.lr=0.1")
    for name in ("adamw", "ivon", "la_kfac"):
        ways = {"cpu": ("--device", "cpu"), "device": ("--device", b.device.type)}
        if b.device.type == "cuda":
            ways["graphs"] = ("--device", "cuda", "--graphs")
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


def fit_job(b: Bench, model: ChoiceModel, data: Encoded, steps: int = 8, **more: Any) -> FitJob:
    spec = FitSpec(
        method="measured", version=1, options={}, data=DataSpec(task="arc_e", version=1, revision=""), holdout=0,
        model=model.spec, train=TrainSpec(steps=steps, batch_size=4), seed=1, bases=(),
    )  # fmt: skip
    name = f"{time.time_ns()}.safetensors"
    where = Checkpointing(b.folder / "work" / name, every_seconds=1e9)
    return FitJob(spec=spec, load=lambda: model, encode=lambda: data, checkpointing=where, **more)


def predict_job(model: ChoiceModel, data: Encoded, posterior: Any) -> PredictJob:
    return PredictJob(
        posterior=posterior, examples=data.examples, answers=ANSWERS, generator=torch.Generator().manual_seed(4),
        batch_size=8, load=lambda: model, max_length=320, _encoded=data,
    )  # fmt: skip


def shape(b: Bench, name: str, quantization: str) -> dict[str, Any]:
    """Passes, draws, optimizer steps, curvature and predictives of one base."""
    began = time.perf_counter()
    model = b.model(name, quantization)
    b.synchronize()
    data = b.data(model, 64)
    parameters = list(model.params.values())
    found: dict[str, Any] = {
        "load_seconds": time.perf_counter() - began,
        "adapter_parameters": sum(p.numel() for p in parameters),
        "held_mib": torch.cuda.memory_allocated() / 2**20 if b.device.type == "cuda" else None,
    }
    job = fit_job(b, model, data)
    batches = [data.batch(range(start, start + 4)) for start in range(0, 40, 4)]
    weights = sum(p.numel() for n, p in model._base.named_parameters() if "layers" in n and "lora_" not in n)
    if quantization != "none":  # packed weights: count the linear maps instead
        linear = (m for n, m in model._base.named_modules() if "layers" in n and hasattr(m, "in_features"))
        weights = sum(m.in_features * m.out_features for m in linear if "lora" not in type(m).__module__)

    @contextlib.contextmanager
    def noted(what: str) -> Iterator[None]:
        try:
            yield
        except Exception:
            found[what] = {"error": traceback.format_exc()[-1500:]}
        gc.collect()

    def passes() -> None:
        with model.dropout():
            for batch in batches:
                job.loss(batch).backward()
        for p in parameters:
            p.grad = None

    with noted("forward_backward"):
        one = b.milliseconds(passes, repeats=5)
        tokens = sum(len(data.tokens[row]) for row in range(40))
        padded = sum(batch.input_ids.numel() for batch in batches)
        speed = tokens / (one["ms"] / 1e3)
        found["forward_backward"] = one | {
            "ms": one["ms"] / len(batches),
            "examples": 4,
            "tokens_per_s": speed,
            "padded_tokens_per_s": padded / (one["ms"] / 1e3),
            "share_of_matmul": 4 * weights * padded / (one["ms"] / 1e3) / b.matmul,  # forward and input gradients
        }
    gradients = [torch.randn_like(p) * 1e-4 for p in parameters]

    def give() -> None:
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g

    for source in ("cpu", "device"):
        with noted(f"ivon_draw, noise from {source}"):
            generator = torch.Generator().manual_seed(1) if source == "cpu" else None
            ivon = IVON(parameters, 0.0, ess=1e6, h0=1e-3, clip_radius=1e-3, generator=generator)

            def draw(ivon: IVON = ivon) -> None:
                ivon.zero_grad()
                with ivon.sampled():
                    give()

            found[f"ivon_draw, noise from {source}"] = b.milliseconds(draw)

            def draw_and_step(ivon: IVON = ivon) -> None:
                draw(ivon)
                ivon.step()

            found[f"ivon_draw_and_step, noise from {source}"] = b.milliseconds(draw_and_step)
            del ivon
    with noted("adamw_step"):
        adamw = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0, foreach=True)
        give()
        found["adamw_step"] = b.milliseconds(adamw.step)
        del adamw
    with noted("swag_collection"):
        moments = Moments(5)
        found["swag_collection"] = b.milliseconds(lambda: moments.add(model.params))
        del moments
    for method in (AdamW(lr=1e-5), Ivon(lr=1e-3)):
        with noted(f"training step of {method.name}"):
            steps = 4 if b.tiny else 24
            fit_job(b, model, data, 4).model  # noqa: B018 (the loop below is warm)
            method.fit(fit_job(b, model, data, 4))
            timed = fit_job(b, model, data, steps)
            method.fit(timed)
            found[f"training step of {method.name}"] = {"ms": 1e3 * timed.train_seconds / steps, "steps": steps}
    posterior: Any = DiagGaussian(model.snapshot(), {n: torch.full_like(p, 1e-6) for n, p in model.params.items()})
    draws = [dict(draw) for draw in posterior.draws(DRAWS, torch.Generator().manual_seed(5))]
    eight = data.batch(range(8))

    @torch.no_grad()
    def looped() -> Tensor:
        rows = []
        for params in draws:
            with model.assign(params):
                rows.append(model.logits(eight))
        return torch.stack(rows)

    def times(field: str) -> Any:
        value = getattr(eight, field)
        return value * DRAWS if isinstance(value, tuple) else value.repeat(DRAWS, *[1] * (value.ndim - 1))

    @torch.no_grad()
    def batched() -> Tensor:
        wide = type(eight)(**{f.name: times(f.name) for f in dataclasses.fields(eight)})
        with stacked(model, draws):
            return model.logits(wide).unflatten(0, (DRAWS, -1))

    with noted("ten_draws"):
        difference = (looped() - batched()).abs().max()
        found["ten_draws"] = {
            "examples": 8,
            "looped": b.milliseconds(looped, repeats=5),
            "batched": b.milliseconds(batched, repeats=5),
            "largest_logit_difference": float(difference),
            "spread_of_logits": float(looped().std()),
        }
    rank = 64 if name == "llama_7b" else 0
    for laplace in (LaplaceDiag(), LaplaceKfac(factor_rank=0 if b.tiny else rank)):
        with noted(laplace.name):
            start = (Point(model.snapshot()),)
            seconds = {}
            for count in (4, 8) if b.tiny else (4, 8, 24):  # the first warms up
                one_job = fit_job(b, model, b.data(model, count), starts=start)
                if b.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                since = time.perf_counter()
                fitted = laplace.fit(one_job)
                b.synchronize()
                seconds[count] = time.perf_counter() - since
            low, high = sorted(seconds)[-2:]
            per = (seconds[high] - seconds[low]) / (high - low)
            found[laplace.name] = {
                "curvature_ms_per_example": 1e3 * per,
                "evidence_and_factors_seconds": seconds[high] - high * per,
            }
            if b.device.type == "cuda":
                found[laplace.name]["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
            predict = predict_job(model, b.data(model, 8), fitted)
            one = b.milliseconds(lambda: laplace.predict(predict), repeats=2, warm=1)  # noqa: B023 (called here)
            found[laplace.name]["linearised_predictive"] = one | {"ms_per_example": one["ms"] / 8}
            del fitted, predict
    return found


def graphs(b: Bench) -> dict[str, Any]:
    """A 0.5 B training step as the loop takes it, eager and with CUDA graphs, AdamW and IVON; and the pass alone."""
    model = b.model("qwen_05b")
    data = b.data(model, 64)
    found: dict[str, Any] = {}
    steps = 4 if b.tiny else 64
    ways = (False, True) if b.device.type == "cuda" else (False,)
    for method in (AdamW(lr=1e-5), Ivon(lr=1e-3)):
        for graphed in ways:
            for count in (steps, 2 * steps):  # recording costs the same in both: the difference is steps alone
                job = fit_job(b, model, data, count, graphs=graphed)
                method.fit(job)
                found.setdefault(f"{method.name}, {'graphs' if graphed else 'eager'}", {})[count] = job.train_seconds
    for row in found.values():
        row["ms_per_step"] = 1e3 * (row[2 * steps] - row[steps]) / steps
        row["start_seconds"] = 2 * row[steps] - row[2 * steps]
    if b.device.type == "cuda":
        batch = data.batch(range(4))
        job = fit_job(b, model, data)
        replay = GraphedLoss(job.loss, list(model.params.values()), CudaRecorder())
        found["pass alone, graph"] = b.milliseconds(lambda: replay(batch), repeats=20)
        found["pass alone, eager"] = b.milliseconds(lambda: job.loss(batch).backward(), repeats=20)
    return found


def compiled(b: Bench) -> dict[str, Any]:
    """torch.compile of the loss over three prompt lengths: seconds of compiling, and the step after it."""
    model = b.model("qwen_05b")
    data = b.data(model, 64)
    batches = [data.batch(range(start, start + 4)) for start in (0, 4, 8)]
    began = time.perf_counter()

    @torch.compile(dynamic=True, backend="eager" if b.tiny else "inductor")
    def loss(input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, labels: Tensor) -> Tensor:
        out = model._module(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
            logits_to_keep=1,
        )
        return torch.nn.functional.cross_entropy(out.logits[:, -1].float(), labels)

    def passes() -> None:
        for batch in batches:
            loss(batch.input_ids, batch.attention_mask, batch.position_ids, batch.labels).backward()

    passes()
    b.synchronize()
    warm = time.perf_counter() - began
    one = b.milliseconds(passes)
    return {"compile_seconds": warm, "pass_ms": one["ms"] / len(batches), **one}


def workers(b: Bench) -> dict[str, Any]:
    """Training steps per second of 1, 4 and 8 processes that share the card, eager and with graphs."""
    counts = (1, 2) if b.tiny else (1, 4, 8)
    found = {"plain": _team(b, counts)}
    if b.mps:
        with _mps(b.folder / "mps") as started:
            found["mps"] = _team(b, counts) if started else {"error": "the MPS control program is not there"}
    return found


@contextlib.contextmanager
def _mps(folder: Path) -> Iterator[bool]:
    folder.mkdir(parents=True, exist_ok=True)
    names = {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    os.environ.update(names)
    try:
        try:
            subprocess.run(["nvidia-cuda-mps-control", "-d"], check=True, timeout=20)
        except (OSError, subprocess.SubprocessError):
            yield False
            return
        try:
            yield True
        finally:
            subprocess.run(["nvidia-cuda-mps-control"], input="quit\n", text=True, timeout=20, check=False)
    finally:
        for name in names:
            del os.environ[name]


def _team(b: Bench, counts: tuple[int, ...]) -> dict[str, Any]:
    """Start the largest team once; in each phase its first n members take steps, all for the same seconds."""
    folder = Path(tempfile.mkdtemp(dir=b.folder))
    ways = ("eager", "graphs") if b.device.type == "cuda" else ("eager",)
    phases = [(way, n) for way in ways for n in counts]
    command = [sys.executable, __file__, "--worker", str(folder), "--device", b.device.type, *["--tiny"] * b.tiny]
    team = [subprocess.Popen([*command, "--number", str(i)], stdout=subprocess.DEVNULL) for i in range(max(counts))]
    found: dict[str, Any] = {}
    try:
        for way, n in phases:
            _wait(lambda: len(list(folder.glob("ready-*"))) == len(team), team, 120)
            for file in folder.glob("ready-*"):
                file.unlink()
            seconds = 0.5 if b.tiny else 6.0
            (folder / "phase.new").write_text(json.dumps({"way": way, "n": n, "seconds": seconds}))
            (folder / "phase.new").rename(folder / "phase")
            _wait(lambda: len(list(folder.glob("steps-*"))) == len(team), team, 60)  # all have read it
            (folder / "phase").unlink()
            steps = [json.loads(file.read_text()) for file in folder.glob("steps-*")]
            for file in folder.glob("steps-*"):
                file.unlink()
            found[f"{way}, {n}"] = {"steps_per_s": sum(s["steps"] / s["seconds"] for s in steps if s["steps"])}
    finally:
        for process in team:
            process.kill()
        for process in team:
            process.wait()
    return found


def _wait(done: Callable[[], bool], team: list[subprocess.Popen[bytes]], seconds: float) -> None:
    ends = time.monotonic() + seconds
    while not done():
        if time.monotonic() > ends or any(process.poll() is not None for process in team):
            raise TimeoutError(f"workers: {[process.poll() for process in team]} after {seconds} s")
        time.sleep(0.02)


def worker(b: Bench, folder: Path, number: int) -> None:
    """A member of a team: waits for a phase, takes AdamW steps for its seconds, writes how many."""
    torch.set_num_threads(1)
    model = b.model("qwen_05b")
    data = b.data(model, 64)
    parameters = list(model.params.values())
    adamw = torch.optim.AdamW(parameters, lr=1e-5, foreach=True)
    job = fit_job(b, model, data)
    replay = GraphedLoss(job.loss, parameters, CudaRecorder()) if b.device.type == "cuda" else None
    batches = list(range(0, 64, 4))

    def step(at: int, graphed: bool) -> None:
        start = batches[at % len(batches)]
        batch = data.batch(range(start, start + 4))
        adamw.zero_grad()
        if graphed and replay is not None:
            replay(batch)
        else:
            job.loss(batch).backward()
        adamw.step()

    with model.dropout():
        for at in batches:
            step(at // 4, False)
            step(at // 4, True)
        b.synchronize()
        while True:
            (folder / f"ready-{number}").touch()
            while not (folder / "phase").exists():
                time.sleep(0.01)
            phase = json.loads((folder / "phase").read_text())
            steps, began = 0, time.perf_counter()
            while number < phase["n"] and time.perf_counter() - began < phase["seconds"]:
                step(steps, phase["way"] == "graphs")
                steps += 1
            b.synchronize()
            new = folder / f"new-{number}"
            new.write_text(json.dumps({"steps": steps, "seconds": time.perf_counter() - began}))
            new.rename(folder / f"steps-{number}")
            while (folder / "phase").exists():
                time.sleep(0.01)


PARTS: dict[str, tuple[Callable[[Bench], dict[str, Any]], float]] = {  # name -> (part, seconds it needs at most)
    "machine": (machine, 20),
    "smoke": (smoke, 90),
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
    with tempfile.TemporaryDirectory() as folder:
        ends = time.monotonic() + args.seconds
        b = Bench(torch.device(args.device), args.tiny, Path(folder), ends=ends, mps=args.mps)
        if args.worker is not None:
            worker(b, args.worker, args.number)
            return
        measure(b, args.parts.split(","), args.out)


def measure(b: Bench, names: list[str], out: Path) -> dict[str, Any]:
    """Run the parts in turn; ``out`` is whole after each."""
    began, found = time.monotonic(), dict[str, Any]()
    for name in names:
        part, needs = PARTS[name]
        since = time.monotonic()
        if since + needs > b.ends:
            found[name] = {"skipped": "out of time"}
        else:
            try:
                found[name] = part(b)
            except Exception:
                found[name] = {"error": traceback.format_exc()[-3000:]}
            found[name]["part_seconds"] = time.monotonic() - since
        gc.collect()
        if b.device.type == "cuda":
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()
        whole = {"tiny": b.tiny, "seconds": time.monotonic() - began, "parts": found}
        new = out.with_suffix(".new")
        new.write_text(json.dumps(whole, indent=1, default=str) + "\n")
        new.replace(out)
        print(f"{name}: {time.monotonic() - since:.0f} s{' ERROR' if 'error' in found[name] else ''}", flush=True)
    return found


if __name__ == "__main__":
    main()
