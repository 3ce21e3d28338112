"""The part of tools/gpu.py on one base: passes, draws, optimizer steps, curvature and predictives."""

from __future__ import annotations

import contextlib
import functools
import gc
import time
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bench.data.batches import Batch
from bench.model.forward import side_by_side
from bench.posterior import DiagGaussian, Point
from methods.adamw import AdamW
from methods.ivon import Ivon
from methods.ivon.optimizer import IVON
from methods.laplace import LaplaceDiag, LaplaceKfac
from methods.swa import Moments
from tools.gpu_common import Bench, fit_job, predict_job

DRAWS = 10


def shape(b: Bench, name: str, quantization: str) -> dict[str, Any]:
    """Passes, draws, optimizer steps, curvature and predictives of one base."""
    began = time.perf_counter()
    model = b.model(name, quantization)
    b.synchronize()
    data = b.data(model, 64)
    parameters = list(model.params.values())
    found = b.part
    found |= {
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
        b.write()

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
            "share_of_matmul": 4 * weights * padded / (one["ms"] / 1e3) / b.ceiling(),  # forward and input gradients
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
    for method in (AdamW(lr=1e-5), Ivon(lr=1e-3)):
        with noted(f"training step of {method.name}"):
            steps = 4 if b.tiny else 24
            method.fit(fit_job(b, model, data, 4))  # warm-up
            timed = fit_job(b, model, data, steps)
            peak = b.peak()
            method.fit(timed)
            found[f"training step of {method.name}"] = {
                "ms": 1e3 * timed.train_seconds / steps, "steps": steps, **peak()
            }  # fmt: skip
    with noted("share of IVON in its step"):
        whole = found["training step of ivon"]["ms"]
        found["share of IVON in its step"] = {
            source: found[f"ivon_draw_and_step, noise from {source}"]["ms"] / whole for source in ("cpu", "device")
        }
    posterior: Any = DiagGaussian(model.snapshot(), {n: torch.full_like(p, 1e-4) for n, p in model.params.items()})
    draws = [dict(draw) for draw in posterior.draws(DRAWS, torch.Generator().manual_seed(5))]
    eight, more = data.batch(range(8)), b.data(model, 8 * DRAWS).batch(range(8 * DRAWS))

    @torch.no_grad()
    def looped(batch: Batch = eight) -> Tensor:
        rows = []
        for params in draws:
            with model.assign(params):
                rows.append(model.logits(batch))
        return torch.stack(rows)

    @torch.no_grad()
    def batched() -> Tensor:
        with side_by_side.stacked(model.adapters, side_by_side.stack(model.adapters, draws), eight):
            return model.logits(side_by_side.repeated(eight, DRAWS)).unflatten(0, (DRAWS, -1))

    with noted("ten_draws"):
        difference = (looped() - batched()).abs().max()
        found["ten_draws"] = {
            "examples": 8,
            "looped": b.milliseconds(looped, repeats=5),
            "batched": b.milliseconds(batched, repeats=5),
            "looped, as many rows a pass": b.milliseconds(lambda: looped(more), repeats=2, warm=0)
            | {"examples": 8 * DRAWS},
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
                peak = b.peak()
                since = time.perf_counter()
                fitted = laplace.fit(one_job)
                b.synchronize()
                seconds[count] = time.perf_counter() - since
            low, high = sorted(seconds)[-2:]
            per = (seconds[high] - seconds[low]) / (high - low)
            found[laplace.name] = {
                "curvature_ms_per_example": 1e3 * per,
                "evidence_and_factors_seconds": seconds[high] - high * per,
                **peak(),
            }
            predict = predict_job(model, b.data(model, 8), fitted)
            one = b.milliseconds(functools.partial(laplace.predict, predict), repeats=2, warm=1)
            found[laplace.name]["linearised_predictive"] = one | {"ms_per_example": one["ms"] / 8}
            del fitted, predict
    return found
