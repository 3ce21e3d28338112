"""Process state that a method's code may change, restored after each fit and prediction.

One process computes many families, and a row must not depend on its neighbours. The model's own state is checked by the
model (:mod:`bench.model`).
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.modules import module as modules

_GLOBAL = [(name, value) for name, value in vars(modules).items() if name.startswith("_global_")]
_HOOKS: dict[str, dict[Any, Any]] = {name: table for name, table in _GLOBAL if isinstance(table, dict)}


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """On the way out, torch's defaults and global hooks, random streams, threads and environment are as before."""
    undo = [_defaults(), _hooks(), _streams(), _environment()]
    try:
        yield
    finally:
        for restore in undo:
            restore()


def _defaults() -> Callable[[], None]:
    dtype, device, threads = torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads()
    grad, anomaly = torch.is_grad_enabled(), torch.is_anomaly_enabled()
    deterministic, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    precision = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    flags = (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32)
    folder = os.getcwd()  # noqa: PTH109

    def restore() -> None:
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_grad_enabled(grad)
        torch.autograd.set_detect_anomaly(anomaly)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.set_float32_matmul_precision(precision)
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = flags
        os.chdir(folder)

    return restore


def _hooks() -> Callable[[], None]:
    before = {name: dict(table) for name, table in _HOOKS.items()}

    def restore() -> None:
        for name, hooks in before.items():
            _HOOKS[name].clear()
            _HOOKS[name].update(hooks)

    return restore


def _streams() -> Callable[[], None]:
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)

    return restore


def _environment() -> Callable[[], None]:
    before = dict(os.environ)

    def restore() -> None:
        if dict(os.environ) != before:
            os.environ.clear()
            os.environ.update(before)

    return restore
