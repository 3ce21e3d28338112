"""Time an IVON step against AdamW and ivon-opt, on LoRA factors shaped like Llama-2-7B's.

    python benchmarks/ivon_overhead.py [--repeats 15] [--threads 1] [--device cpu]

64 modules (query and value of 32 layers), A 8 x 4096 and B 4096 x 8, float32: 4.2 M parameters, 128 tensors.
The gradient is given, no model runs: IVON is timed as entering a draw, leaving it and the step, AdamW
(foreach) as its step. The contestants take turns in every round, and the table gives medians, so that a busy
machine hits all alike.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import Parameter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without an installation, too

from methods.ivon.optimizer import IVON

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


def main() -> None:
    parser = argparse.ArgumentParser(description="Time IVON against AdamW and ivon-opt on LoRA-shaped parameters.")
    parser.add_argument("--repeats", type=int, default=15, help="rounds that are timed (default 15)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default 1)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default cpu)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)

    made = {"AdamW (foreach)": adamw(device), "IVON (ours)": ours(device), "ivon-opt": ivon_opt(device)}
    steps = {name: step for name, step in made.items() if step is not None}
    steps["noise alone"] = noise_alone(device)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(arguments.repeats + 2):
        for name, step in steps.items():
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if round_number >= 2:  # the first rounds warm up
                times[name].append(time.perf_counter() - start)

    medians = {name: statistics.median(values) for name, values in times.items()}
    setting = f"{device}, {arguments.threads} thread(s), {arguments.repeats} interleaved rounds"
    print(f"torch {torch.__version__}, {setting}")
    print(f"{'':18}{'ms, median':>12}{'min':>9}{'to AdamW':>10}{'to ours':>9}")
    for name, median in medians.items():
        print(
            f"{name:18}{1e3 * median:12.1f}{1e3 * min(times[name]):9.1f}"
            f"{median / medians['AdamW (foreach)']:10.2f}{median / medians['IVON (ours)']:9.2f}"
        )
    if "ivon-opt" not in steps:
        print("ivon-opt is not installed (pip install ivon-opt): left out.")


if __name__ == "__main__":
    main()
