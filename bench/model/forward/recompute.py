"""Gradient checkpointing: a layer of the base keeps its input alone, and backward computes the rest again.

Chen et al. 2016, arXiv 1604.06174. The base is in evaluation mode, where transformers' own switch does nothing. Random
streams are restored for the second pass, so dropout masks and, on a CPU, all bytes are those of a single pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.checkpoint import checkpoint

from bench.model.forward.switched import Switched


class Recompute(Switched):
    """While on, layers keep their inputs alone. It is off for a pass with its own parameters: backward would compute
    with the parameters that the layers have by then.
    """

    def run(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a layer gives; its activations are not kept."""
        return checkpoint(inner, *args, use_reentrant=False, **kwargs)
