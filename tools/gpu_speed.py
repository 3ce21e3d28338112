"""Parts of tools/gpu.py on the suite's own 0.5 B training step: eager, as CUDA graphs, compiled, and both; kernels."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.data.batches import Batch
from bench.model.choice_model import load_model
from bench.specs import ModelSpec
from bench.train.graphs import CudaRecorder, GraphedLoss
from bench.train.seeding import seed_global
from methods.adamw import AdamW
from methods.ivon import Ivon
from methods.ivon.optimizer import IVON
from tools.gpu_bases import ANSWERS, prompts
from tools.gpu_common import Bench, failure, fit_job

LEAST = 30.0  # seconds that one way needs
WAYS: dict[str, dict[str, bool]] = {
    "eager": {},
    "graphs": {"graphs": True},
    "compile": {"compile": True},
    "compile + graphs": {"compile": True, "graphs": True},
}


def graphs(b: Bench) -> dict[str, Any]:
    """The step eager and with CUDA graphs, AdamW and IVON; the pass alone; kernels of each piece of a step."""
    found = _steps(b, ("eager", "graphs"))
    model = b.model("qwen_05b")
    data = b.data(model, 64)
    batch, job, parameters = data.batch(range(4)), fit_job(b, model, data), list(model.params.values())

    def eager() -> None:
        job.loss(batch).backward()

    found["pass alone, eager"] = b.milliseconds(eager, repeats=20)
    found["kernels"] = _kernels(b, eager, parameters)
    b.write()
    if b.device.type == "cuda":
        replay = GraphedLoss(job.loss, parameters, CudaRecorder())
        found["pass alone, graph"] = b.milliseconds(lambda: replay(batch), repeats=20)
        found["reserved_mib"] = torch.cuda.max_memory_reserved() / 2**20  # of one process, its CUDA context not counted
    return found


def compiled(b: Bench) -> dict[str, Any]:
    """The step eager, with CUDA graphs, with compiled layers and with both: AdamW and IVON, warm-up counted apart."""
    b.part["dropout"] = row = dict[str, Any]()
    with failure(row):
        row |= _dropout(b)
    b.write()
    return _steps(b, tuple(WAYS))


def _dropout(b: Bench) -> dict[str, float]:
    """Distances of gradients of the embedded base with dropout on, over the norm of the eager ones of seed 7.

    Those of one seed must be those of eager passes, however often they are made; those of another seed are far.
    """
    model = load_model(ModelSpec(), None, b.device)
    model.prepare(ANSWERS, seed=1)
    with torch.no_grad():
        for parameter in model.params.values():
            parameter.add_(0.05)
    parameters, batch = list(model.params.values()), prompts([14, 9], 200, b.device).batch([0, 1])
    job = fit_job(b, model, prompts([14, 9], 200, b.device))

    def gradients(run: Callable[[Batch], Any], seed: int) -> Tensor:
        seed_global(seed, b.device)
        for parameter in parameters:
            parameter.grad = None
        run(batch)
        return torch.cat([p.grad.flatten().clone() for p in parameters if p.grad is not None])

    def plain(batch: Batch) -> None:
        job.loss(batch).backward()

    found, compiled = {}, model.compiled()
    with model.dropout():
        wanted = gradients(plain, 7)
        for way, options in WAYS.items():
            if "graphs" in options and b.device.type != "cuda":
                continue
            with compiled.on() if "compile" in options else contextlib.nullcontext():
                run = GraphedLoss(job.loss, parameters, CudaRecorder()) if "graphs" in options else plain
                for name, seed in (("", 7), (", repeated", 7), (", another seed", 8)):
                    found[way + name] = float((gradients(run, seed) - wanted).norm() / wanted.norm())
            if "compile" in options and compiled.failed:
                raise RuntimeError(compiled.failed)
    return found


def _steps(b: Bench, ways: tuple[str, ...]) -> dict[str, Any]:
    """Milliseconds per step as the training loop takes it, and the seconds before a step costs that; written as known.

    The first training of a way also compiles, and records the graphs of its lengths. The second one is twice as long
    as the third, so that their difference is steps alone.
    """
    found = b.part
    model = b.model("qwen_05b")
    data = b.data(model, 64)
    steps = 4 if b.tiny else 24
    for way in ways:
        if "graphs" in way and b.device.type != "cuda":
            continue
        for method in (AdamW(lr=1e-5), Ivon(lr=1e-3)):
            name = f"{method.name}, {way}"
            known = b.found.get("graphs", {}).get(name)
            if known is not None and known is not found.get(name):
                found[name] = known  # measured in this run
                continue
            if time.monotonic() > b.ends - LEAST:
                found[name] = {"skipped": "out of time"}
                continue
            found[name] = row = dict[str, Any]()
            with failure(row):
                seconds = []
                for count in (steps, 2 * steps, steps):
                    job = fit_job(b, model, data, count, **WAYS[way])
                    began = time.perf_counter()
                    method.fit(job)
                    b.synchronize()
                    seconds.append(time.perf_counter() - began)
                    row |= {"facts": job.facts, "warnings": job.warnings}
                row["ms_per_step"] = 1e3 * (seconds[1] - seconds[2]) / steps
                row["start_seconds"] = seconds[0] - seconds[2]  # over a later training, which records again
                row["record_seconds"] = seconds[2] - steps * row["ms_per_step"] / 1e3
                row["last_loss"] = job.trace[-1]["loss"]
            b.write()
    return found


def _kernels(b: Bench, pass_once: Callable[[], None], parameters: list[torch.nn.Parameter]) -> dict[str, int]:
    """Kernels of the device (operators, on a CPU) that each piece of a step launches."""
    pass_once()
    adamw = torch.optim.AdamW(parameters, lr=0.0, foreach=True)
    fused = torch.optim.AdamW(parameters, lr=0.0, fused=True)
    ivon = IVON(parameters, 0.0, ess=1e6, h0=1e-3, clip_radius=1e-3)
    gradients = [torch.zeros_like(p) for p in parameters]

    def draw() -> None:
        with ivon.sampled():
            for p, g in zip(parameters, gradients, strict=True):
                p.grad = g

    def clip() -> None:
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)

    pieces = {
        "forward and backward": pass_once,
        "clipping": clip,
        "AdamW step": adamw.step,
        "AdamW step, fused": fused.step,
        "IVON draw": draw,
        "IVON step": ivon.step,
    }
    kind = torch.autograd.DeviceType.CUDA if b.device.type == "cuda" else torch.autograd.DeviceType.CPU
    found = {}
    for name, piece in pieces.items():
        piece()
        if name == "IVON step":
            draw()
        b.synchronize()
        with torch.profiler.profile() as profile, contextlib.suppress(StopIteration):
            piece()
            b.synchronize()
        found[name] = sum(event.device_type == kind for event in profile.events())
    return found
