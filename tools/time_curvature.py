"""Curvature of one batch on the embedded base: the suite's hooks against laplace-torch's own backends, side by side.

    python -m tools.time_curvature [--batch 8] [--rounds 7] [--json FILE]

Prints medians over interleaved rounds and their ratios; see tests/methods/laplace/test_laplace.py for their equality.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.data.splits import DataSource, load_split
from bench.model.choice_model import load_model
from bench.specs import ModelSpec
from bench.task import get_task
from methods.laplace.laplace_torch import AdapterCurvature, ReadOut
from tools.timing import Ratio, report, take_turns

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
    parser.add_argument("--json", type=Path)
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
    ratios = [
        Ratio("Kronecker factors, hooks", "Kronecker factors, curvlinops"),
        Ratio("Jacobians, hooks", "Jacobians, torch.func"),
    ]
    settings = {"batch": options.batch, "threads": 1, "seconds": "of processor"}
    seconds = take_turns(ways, options.rounds, clock=time.process_time)
    report(options.json, "curvature of a batch, embedded base", seconds, ratios, settings)


if __name__ == "__main__":
    main()
