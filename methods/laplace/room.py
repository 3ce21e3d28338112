"""Whether Kronecker factors fit into memory, said before the training set is passed through the model."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch

GIB = 2**30


def check_room(sizes: Sequence[int], rank: int, itemsize: int, device: torch.device) -> None:
    """Refuse factors that cannot fit on a device together with their eigenvectors, which are as large.

    Args:
        sizes: the widths d of the factors there.
        rank: what factors wider than it are cut to; 0 keeps them whole.
        itemsize: bytes of a number.
        device: where they lie.

    Raises:
        ValueError: it names a rank at which they take at most half of what is free.
    """
    needed, free = _bytes(sizes, rank, itemsize), free_bytes(device)
    if needed <= free:
        return
    fits = 1
    while _bytes(sizes, 2 * fits, itemsize) <= free / 2:
        fits *= 2
    less = _bytes(sizes, fits, itemsize)
    raise ValueError(
        f"The Kronecker factors of these adapters take {needed / GIB:.3g} GiB with their eigenvectors, and {device} "
        f"has {free / GIB:.3g} GiB: set factor_rank = {fits}, which takes {less / GIB:.3g} GiB, or subset = last."
    )


def free_bytes(device: torch.device) -> float:
    """Memory that torch may still take on a GPU; all memory of the machine for a CPU; infinity where nobody tells."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + held)
    if device.type == "cpu" and {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= os.sysconf_names.keys():
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return math.inf


def _bytes(sizes: Sequence[int], rank: int, itemsize: int) -> int:
    """Of the sums and the eigenvectors, which are held at one time."""
    return 2 * itemsize * sum(size * min(size, rank or size) for size in sizes)
