"""Time an IVON step against AdamW and ivon-opt, on LoRA factors shaped like Llama-2-7B's.

    python -m tools.time_ivon [--repeats 15] [--threads 1] [--device cpu] [--json FILE]

64 modules (query and value of 32 layers), A 8 x 4096 and B 4096 x 8, float32: 4.2 M parameters, 128 tensors.
The gradient is given, no model runs: IVON is timed as entering a draw, leaving it and the step, AdamW
(foreach) as its step. The contestants take turns in every round, and the table gives medians, so that a busy
machine hits all alike.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import Parameter

from methods.ivon.optimizer import IVON
from tools.timing import Ratio, report, take_turns

Step = Callable[[], None]


def lora_parameters(device: torch.device) -> tuple[list[Parameter], list[torch.Tensor]]:
    """Factors and one fixed gradient each."""
    shapes = [(8, 4096), (4096, 8)] * 64
    params = [Parameter(0.01 * torch.randn(shape, device=device)) for shape in shapes]
    return params, [1e-3 * torch.randn(shape, device=device) for shape in shapes]


def give(params: list[Parameter], grads: list[torch.Tensor]) -> None:
    """Stands for backward: it hands over new gradient tensors without a copy."""
    for p, g in zip(params, grads, strict=True):
        p.grad = g


def ours(device: torch.device) -> Step:
    params, grads = lora_parameters(device)
    optimizer = IVON(params, 0.03, ess=1e6, h0=1e-3, clip_radius=1e-3)

    def step() -> None:
        with optimizer.sampled():
            give(params, grads)
        optimizer.step()
        optimizer.zero_grad()

    return step


def adamw(device: torch.device) -> Step:
    params, grads = lora_parameters(device)
    optimizer = torch.optim.AdamW(params, lr=1e-4, foreach=True)

    def step() -> None:
        give(params, grads)
        optimizer.step()
        optimizer.zero_grad()

    return step


def ivon_opt(device: torch.device) -> Step | None:
    try:
        module = importlib.import_module("ivon")
    except ImportError:
        return None
    params, grads = lora_parameters(device)
    optimizer = module.IVON(
        params, lr=0.03, ess=1e6, hess_init=1e-3, weight_decay=0.0, clip_radius=1e-3, rescale_lr=False
    )

    def step() -> None:
        with optimizer.sampled_params(train=True):
            give(params, grads)
        optimizer.step()
        optimizer.zero_grad()

    return step


def noise_alone(device: torch.device) -> Step:
    """The floor of any such method: drawing as many normal numbers as there are parameters."""
    return lambda: (torch.randn(2 * 64 * 8 * 4096, device=device), None)[1]


def then(first: Step | None, second: Step) -> Step:
    """One after the other."""
    return lambda: (first() if first is not None else None, second())[1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Time IVON against AdamW and ivon-opt on LoRA-shaped parameters.")
    parser.add_argument("--repeats", type=int, default=15, help="rounds that are timed (default 15)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default 1)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default cpu)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)

    made = {"AdamW (foreach)": adamw(device), "IVON (ours)": ours(device), "ivon-opt": ivon_opt(device)}
    steps = {name: step for name, step in made.items() if step is not None}
    floor = noise_alone(device)
    steps["noise alone"] = floor
    steps["AdamW and its noise"] = then(made["AdamW (foreach)"], floor)

    def waited(step: Step) -> Step:
        return lambda: (step(), torch.cuda.synchronize(device) if device.type == "cuda" else None)[1]

    alone = device.type == "cpu" and arguments.threads == 1  # then processor time leaves other processes out
    clock = time.process_time if alone else time.perf_counter
    seconds = take_turns({name: waited(step) for name, step in steps.items()}, arguments.repeats, 2, clock)
    ratios = [Ratio("IVON (ours)", "AdamW and its noise", 1.5), Ratio("IVON (ours)", "AdamW (foreach)")]
    if "ivon-opt" in steps:
        ratios.append(Ratio("IVON (ours)", "ivon-opt", 0.40))
    else:
        print("ivon-opt is not installed (pip install ivon-opt): left out.")
    kind = "of processor" if alone else "elapsed"
    settings = {"seconds": kind, "device": str(device), "threads": arguments.threads, "parameters": 2 * 64 * 8 * 4096}
    report(arguments.json, "IVON draw + step on LoRA factors of Llama-2-7B's shape", seconds, ratios, settings)


if __name__ == "__main__":
    main()
