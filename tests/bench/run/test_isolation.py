"""What a method's code leaves in the process does not reach the next family."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.run.isolation import isolated


def state() -> dict[str, Any]:
    """Everything that is to stay."""
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[index, union-attr]
        "torch": torch.get_rng_state().tolist(),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "output": nn.Flatten()(torch.ones(1, 1)).shape,
    }


def deterministic_cudnn() -> None:
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = True


LEFT: list[Callable[[], Any]] = [
    lambda: torch.set_default_dtype(torch.float64),
    lambda: torch.set_default_device("meta"),
    lambda: torch.set_num_threads(2),
    lambda: torch.set_grad_enabled(False),
    lambda: torch.autograd.set_detect_anomaly(True),
    lambda: torch.use_deterministic_algorithms(True),
    lambda: torch.set_float32_matmul_precision("medium"),
    deterministic_cudnn,
    lambda: random.seed(3),
    lambda: np.random.seed(3),
    lambda: torch.manual_seed(3),
    lambda: os.environ.update(BENCH_LEFT="1", HOME="/nowhere"),
    lambda: os.chdir("/"),
    lambda: nn.modules.module.register_module_forward_hook(lambda module, args, output: output.repeat(2)),
]


@pytest.mark.parametrize("leave", LEFT)
@pytest.mark.parametrize("raises", [False, True])
def test_all_is_as_before(leave: Callable[[], Any], raises: bool) -> None:
    before = state()
    try:
        with isolated():
            leave()
            if raises:
                raise KeyError
    except KeyError:
        pass
    assert state() == before
