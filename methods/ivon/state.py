"""IVON's state: one flat buffer per (group, device, dtype), and the checks of what is put into it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

HYPER = ("lr", "ess", "h0", "beta1", "beta2", "weight_decay", "clip_radius", "rescale_lr")
BLOCK = 2**15  # numbers: a handful of such buffers stay in a processor's second-level cache
LARGEST = 2**23  # numbers of a block on other devices: their count is exact in float32


@dataclass(eq=False)
class Bucket:
    """The parameters of one group that share device and dtype, and their state as flat buffers."""

    group: int  # index into optimizer.param_groups; load_state_dict replaces the dictionaries themselves
    params: list[Tensor]
    device: torch.device
    dtype: torch.dtype
    momentum: Tensor
    hessian: Tensor
    step: Tensor  # int64, on the CPU
    clipped: Tensor  # number of coordinates clipped in the last step, on the bucket's device
    mean_memory: Tensor  # kept: memory that is new at every step costs more than what is written to it
    grad_memory: Tensor
    noise: Tensor | None = None  # theta - m before rounding to dtype, while exactly one draw is pending
    product: Tensor | None = None  # sum_s g_s (theta_s - m), while several are
    at_exit: Tensor | None = None  # p.grad as the last of several draws left it

    def blocks(self) -> list[slice]:
        """The parts of a flat buffer that are worked on in turn."""
        n, size = self.momentum.numel(), BLOCK if self.device.type == "cpu" else LARGEST
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def pieces(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat buffer in the shapes of the parameters."""
        parts = flat.split_with_sizes([p.numel() for p in self.params])
        return [part.view(p.shape) for part, p in zip(parts, self.params, strict=True)]

    def means(self) -> Tensor:
        """The parameters as one flat buffer, which the next call overwrites."""
        return torch.cat([p.detach().reshape(-1) for p in self.params], out=self.mean_memory)

    def flat_grad(self, grads: list[Tensor | None], out: Tensor | None = None) -> Tensor:
        """Gradients (one per parameter) as one flat buffer in the state's dtype, in ``out``; None counts as zero."""
        zero = self.momentum.new_zeros(1)
        parts = [
            zero.expand(p.numel()) if g is None else g.reshape(-1) for p, g in zip(self.params, grads, strict=True)
        ]
        return torch.cat(parts, out=torch.empty_like(self.momentum) if out is None else out)


def new_buckets(index: int, group: dict[str, Any]) -> list[Bucket]:
    """The buckets of parameter group number ``index``, at step 0.

    Raises:
        ValueError: a parameter that cannot be trained, or that is there twice.
    """
    by_kind: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    if len({id(p) for p in group["params"]}) < len(group["params"]):
        raise ValueError(f"Group {index} holds the same parameter twice: pass each parameter once.")
    for i, p in enumerate(group["params"]):
        if not p.is_floating_point():
            raise ValueError(
                f"Parameter {i} of group {index} has dtype {p.dtype}, but IVON needs real floating-point "
                "parameters: leave it out."
            )
        if not p.requires_grad:
            raise ValueError(
                f"Parameter {i} of group {index} does not require gradients, so IVON would perturb but "
                "never learn it: pass only the parameters with requires_grad=True."
            )
        by_kind.setdefault((p.device, p.dtype), []).append(p)
    buckets = []
    for (device, dtype), params in by_kind.items():
        state_dtype = torch.promote_types(dtype, torch.float32)
        n = sum(p.numel() for p in params)
        buckets.append(
            Bucket(
                group=index,
                params=params,
                device=device,
                dtype=dtype,
                momentum=torch.zeros(n, device=device, dtype=state_dtype),
                hessian=torch.full((n,), float(group["h0"]), device=device, dtype=state_dtype),
                step=torch.zeros((), dtype=torch.int64),
                clipped=torch.zeros((), device=device, dtype=torch.int64),
                mean_memory=torch.empty(n, device=device, dtype=dtype),
                grad_memory=torch.empty(n, device=device, dtype=state_dtype),
            )
        )
    return buckets


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
