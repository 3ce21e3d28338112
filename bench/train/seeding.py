"""Seeding torch's random streams."""

from __future__ import annotations

import torch


def seed_global(seed: int, device: torch.device) -> None:
    """Seed the global streams, which dropout draws from: the CPU's, and those of all GPUs if ``device`` is one.

    ``torch.manual_seed`` would queue a call, with a traceback, for every kind of accelerator that is not in use yet: at
    every step, and for good.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)  # `--device cuda:1`, or layers on several; manual_seed means the current one
