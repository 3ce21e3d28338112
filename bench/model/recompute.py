"""Gradient checkpointing: a layer of the base keeps its input alone, and backward computes the rest again.

Chen et al. 2016, arXiv 1604.06174. The base is in evaluation mode, where transformers' own switch does nothing. Random
streams are restored for the second pass, so dropout masks and, on a CPU, all bytes are those of a single pass.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Recompute:
    """Switches for ``layers``: :meth:`on` around a training, :meth:`off` around a pass with parameters of its own.

    Attributes:
        kept: whether a pass inside :meth:`on` was made with it off.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._layers = layers
        self._active = False
        self.kept = False

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Layers keep their inputs alone inside, wherever gradients are computed."""
        for layer in self._layers:
            layer.forward = functools.partial(self._forward, layer.forward)
        self._active, self.kept = True, False
        try:
            yield
        finally:
            self._active = False
            for layer in self._layers:
                del layer.forward  # the class's own shows again

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """All is kept inside: backward would compute with the parameters that the layers have by then."""
        before = self._active
        self.kept |= before
        self._active = False
        try:
            yield
        finally:
            self._active = before

    def _forward(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._active or not torch.is_grad_enabled():
            return inner(*args, **kwargs)
        return checkpoint(inner, *args, use_reentrant=False, **kwargs)
