"""Layers of the base that run differently while a switch is on: recomputed, or compiled."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn


class Switched:
    """Switches for ``layers``: :meth:`on` around a training, :meth:`off` around a pass with its own parameters.

    Passes without gradients are always the plain ones.

    Attributes:
        kept: whether a pass inside :meth:`on` was made with it off.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._layers = layers
        self._active = False
        self.kept = False

    @property
    def active(self) -> bool:
        """Whether it is on."""
        return self._active

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Layers run as :meth:`run` says inside, wherever gradients are computed."""
        placed = [vars(layer).get("forward") for layer in self._layers]  # accelerate's, of a base spread over devices
        for layer in self._layers:
            layer.forward = functools.partial(self._forward, layer.forward)
        self._active, self.kept = True, False
        try:
            yield
        finally:
            self._active = False
            for layer, before in zip(self._layers, placed, strict=True):
                del layer.forward  # the class's own shows again
                if before is not None:
                    layer.forward = before

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Layers run plainly inside."""
        before = self._active
        self.kept |= before
        self._active = False
        try:
            yield
        finally:
            self._active = before

    def run(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a layer gives, other than by ``inner``, its own bound method."""
        raise TypeError(f"{type(self).__qualname__} must define run(inner, ...).")

    def _forward(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        plain = not self._active or not torch.is_grad_enabled()
        return (inner if plain else functools.partial(self.run, inner))(*args, **kwargs)
