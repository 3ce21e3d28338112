"""What may be put into IVON: the ranges of its hyperparameters, and the state dictionaries that fit."""

from __future__ import annotations

import math
from typing import Any

import torch

HYPER = ("lr", "ess", "h0", "beta1", "beta2", "weight_decay", "clip_radius", "rescale_lr")


def check_state(groups: list[dict[str, Any]], state_dict: dict[str, Any]) -> None:
    """Refuse a state dictionary that does not fit, before anything changes. (torch checks the groups' sizes.)"""
    fix = "load a state_dict() that IVON wrote for the same parameters in the same groups and order"
    for number, (group, saved) in enumerate(zip(groups, state_dict["param_groups"], strict=False)):
        missing = [key for key in HYPER if key not in saved]
        if missing:
            raise ValueError(f"The saved group {number} has no {', '.join(missing)}: {fix}.")
        check_hyper(saved)
        steps: dict[tuple[torch.device, torch.dtype], int] = {}
        for p, index in zip(group["params"], saved["params"], strict=False):
            entry = state_dict["state"].get(index, {})
            if any(key not in entry for key in ("step", "momentum", "hessian")):
                raise ValueError(f"The saved state of parameter {index} lacks step, momentum or hessian: {fix}.")
            if entry["momentum"].shape != p.shape or entry["hessian"].shape != p.shape:
                raise ValueError(
                    f"The saved state of parameter {index} has shape {tuple(entry['momentum'].shape)}, "
                    f"the parameter {tuple(p.shape)}: {fix}."
                )
            step = int(entry["step"])
            if steps.setdefault((p.device, p.dtype), step) != step:
                raise ValueError(f"The saved step counters within group {number} differ: {fix}.")


def step_size(group: dict[str, Any]) -> float:
    """The lr that multiplies the clipped step, after `rescale_lr`."""
    return float(group["lr"]) * (float(group["h0"]) + float(group["weight_decay"]) if group["rescale_lr"] else 1.0)


def check_hyper(group: dict[str, Any]) -> None:
    """Refuse values out of range, with a sentence that says what to give instead."""
    for name in HYPER:
        value = group[name]
        if name == "rescale_lr":
            if not isinstance(value, bool):
                raise ValueError(f"rescale_lr must be True or False, got {value!r}.")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} must be a Python number, got {type(value).__name__}: convert it with float().")
    ranges = (
        ("lr", 0 <= group["lr"] < math.inf, "finite and at least 0, for example 0.03"),
        (
            "ess",
            0 < group["ess"] < math.inf,
            "finite and above 0, for example the number of training examples",
        ),
        ("h0", 0 < group["h0"] < math.inf, "finite and above 0, for example 1e-3"),
        ("beta1", 0 <= group["beta1"] < 1, "at least 0 and below 1, for example 0.9"),
        ("beta2", 0 <= group["beta2"] <= 1, "between 0 and 1, for example 1 - 1e-5"),
        ("weight_decay", 0 <= group["weight_decay"] < math.inf, "finite and at least 0; 0 switches it off"),
        ("clip_radius", group["clip_radius"] > 0, "above 0; math.inf switches clipping off"),
    )
    for name, good, wanted in ranges:
        if not good:
            raise ValueError(f"{name} must be {wanted}, got {group[name]!r}.")
