"""Curvature of one batch on the embedded base: the suite's hooks against laplace-torch's own backends, side by side.

    python benchmarks/curvature.py [--batch 8] [--rounds 7]

Prints medians over interleaved rounds and their ratios; see tests/methods/test_laplace.py for their equality.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.data.splits import DataSource, load_split
from bench.model.choice_model import load_model
from bench.specs import ModelSpec
from bench.task import get_task
from methods.laplace.laplace_torch import AdapterCurvature, ReadOut

FIELDS = ("input_ids", "attention_mask", "position_ids", "labels")


class Whole(nn.Module):
    """The peft model as laplace-torch's backends take it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self.inner(**{name: x[name] for name in FIELDS[:3]}, use_cache=False).logits[:, -1]
        return logits


def main() -> None:
    warnings.filterwarnings("ignore")
    from laplace.curvature import CurvlinopsGGN, GGNInterface

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(ModelSpec(), None, torch.device("cpu"))
    model.prepare(("A", "B", "C", "D"), seed=1)
    data = model.encode(load_split(get_task("notes_four"), "train", DataSource()).examples[: options.batch], 320)
    batch = data.batch(range(options.batch))
    mapping: Any = {name: getattr(batch, name) for name in FIELDS}
    ours = AdapterCurvature(ReadOut(model, model.params, list(model.params)), "classification")
    whole = Whole(model._module)
    curvlinops, by_func = CurvlinopsGGN(whole, "classification"), GGNInterface(whole, "classification")
    fed: Any = {"batch": batch}
    ways: dict[str, Callable[[], Any]] = {
        "Kronecker factors, hooks": lambda: ours.kron(fed, batch.labels, N=options.batch),
        "Kronecker factors, curvlinops": lambda: curvlinops.kron(mapping, batch.labels, N=options.batch),
        "Jacobians, hooks": lambda: ours.jacobians(fed),
        "Jacobians, torch.func": lambda: by_func.jacobians(mapping),
        "diagonal, hooks": lambda: ours.diag(fed, batch.labels),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    for name, taken in seconds.items():
        print(f"{name:32} {1000 * statistics.median(taken):8.1f} ms")
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    factors = median["Kronecker factors, curvlinops"] / median["Kronecker factors, hooks"]
    jacobians = median["Jacobians, torch.func"] / median["Jacobians, hooks"]
    print(f"curvlinops / hooks, factors:    {factors:.2f}")
    print(f"torch.func / hooks, Jacobians:  {jacobians:.2f}")


if __name__ == "__main__":
    main()
