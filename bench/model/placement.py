"""A base larger than one GPU: its layers spread over GPUs, CPU and disk by accelerate. The only user of accelerate.

A layer computes on the device that the map names. Layers on "cpu" or "disk", in a map that also names a GPU, keep their
weights there and are copied to the GPU for each pass ("offloaded": in between they are on torch's meta device).
Adapters, their gradients and the optimizer's state are on the device where their layer computes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.errors import ModelNotUsable

NAMES = ("auto", "balanced", "sequential")  # of maps that accelerate makes from the free memory
DeviceMap = str | Mapping[str, str | int]  # one of NAMES, or a device for each part of the base


def read_device_map(text: str) -> DeviceMap:
    """What ``--device-map`` names: one of NAMES, or a JSON file of names of modules and their devices.

    Raises:
        ValueError: it is neither; or the file does not hold such an object.
    """
    if text in NAMES:
        return text
    file = Path(text)
    if file.suffix != ".json":
        raise ValueError(
            f"--device-map '{text}': use {', '.join(NAMES)}, or a .json file with a device for each layer."
        )
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--device-map {file}: it cannot be read ({error}).") from error
    if not (isinstance(found, dict) and found and all(type(device) in (int, str) for device in found.values())):
        raise ValueError(
            f'--device-map {file}: give an object such as {{"model.embed_tokens": 0, "model.layers.0": 0, '
            '"model.layers.1": "cpu", ...}.'
        )
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence accelerate's remark that offloaded weights are on the meta device."""
    log = logging.getLogger("accelerate.big_modeling")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def check_accelerate() -> None:
    """Refuse a device map where accelerate is not installed.

    Raises:
        ModelNotUsable: it is not.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise ModelNotUsable("--device-map needs accelerate: pip install 'bayes-lora-bench[large]', or leave it out.")


def is_spread(model: nn.Module) -> bool:
    """Whether accelerate has placed the layers of a model."""
    return any(hasattr(module, "_hf_hook") for module in model.modules())


def device_of(layer: Any) -> torch.device:
    """Where a layer computes: the device of its weight, or the one that an offloaded weight is copied to."""
    hook = getattr(layer, "_hf_hook", None)
    if layer.weight.is_meta and hook is not None:
        return torch.device(hook.execution_device)
    device: torch.device = layer.weight.device
    return device


@contextlib.contextmanager
def at_hand(layer: nn.Module) -> Iterator[None]:
    """The weights of a layer in memory inside, also if they are offloaded."""
    if not hasattr(layer, "_hf_hook"):
        yield
        return
    from accelerate.utils import align_module_device

    with align_module_device(layer):
        yield


def follow_inputs(model: nn.Module, head: nn.Module, device: torch.device) -> None:
    """Let a new answer head, on ``device``, read inputs from the device that the last layer is on."""
    if is_spread(model):
        head.register_forward_pre_hook(lambda _, args: (args[0].to(device), *args[1:]))
