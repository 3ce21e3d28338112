"""Model state that a method may change: recorded before its code runs, restored afterwards.

One loaded base serves all fits of a process, so a row must not depend on what the method of an earlier one did to it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

SAMPLE = 2**16  # entries of a weight that are compared, evenly spaced
HOLDERS = (dict, list, set)
Mark = tuple[int, torch.dtype, tuple[int, ...], int]


class Guard:
    """The state of ``modules``, of further ``objects`` with attributes, and of all tensors of the modules.

    Everything but values of weights can be put back: hooks, attributes, submodules, parameters and buffers that were
    added, removed or replaced, and buffers' values. The values of ``free`` parameters (the adapters) are not looked at.
    """

    def __init__(self, module: nn.Module, objects: Iterable[object], free: Iterable[Tensor]) -> None:
        self._modules = list(module.modules())
        self._classes = [type(each) for each in self._modules]
        self._attributes = [_Attributes(each) for each in (*self._modules, *objects)]
        named, buffers = list(module.named_parameters()), list(module.buffers())
        self._hooks = [_Hooks(tensor) for tensor in (*(parameter for _, parameter in named), *buffers)]
        self._buffers = [(buffer, buffer.clone()) for buffer in buffers]
        ignored = {id(tensor) for tensor in free}
        self._weights = [(name, p, _mark(p)) for name, p in named if id(p) not in ignored]

    def restore(self) -> list[str]:
        """Put everything back as it was; returns the names of weights whose values have changed, which cannot be."""
        for module, cls in zip(self._modules, self._classes, strict=True):
            if type(module) is not cls:  # torch's parametrisations change it
                module.__class__ = cls
        for attributes in self._attributes:
            attributes.restore()
        for hooks in self._hooks:
            hooks.restore()
        with torch.no_grad():
            for buffer, value in self._buffers:
                if buffer.shape == value.shape and buffer.dtype == value.dtype:
                    buffer.copy_(value)
                else:
                    buffer.data = value
        return [name for name, weight, mark in self._weights if _mark(weight) != mark]


class _Attributes:
    """The attributes of an object; the entries of those that are dictionaries, lists or sets, too."""

    def __init__(self, of: object) -> None:
        self._of = of
        self._values = dict(vars(of))
        self._contents = [
            (value, value.copy() if value else ()) for value in self._values.values() if isinstance(value, HOLDERS)
        ]

    def restore(self) -> None:
        own = vars(self._of)
        if not _same(own, self._values):
            own.clear()
            own.update(self._values)
        for value, copy in self._contents:
            if isinstance(value, list):
                value[:] = copy
            elif (value or copy) and not (isinstance(value, dict) and isinstance(copy, dict) and _same(value, copy)):
                value.clear()
                value.update(copy)


def _same(one: Mapping[Any, object], other: Mapping[Any, object]) -> bool:
    """Whether two dictionaries hold the same objects in the same order."""
    return len(one) == len(other) and all(map(operator.is_, one.values(), other.values())) and [*one] == [*other]


class _Hooks:
    """The hooks of a tensor, whether it needs a gradient, and its gradient."""

    NAMES = ("_backward_hooks", "_post_accumulate_grad_hooks")

    def __init__(self, of: Tensor) -> None:
        self._of = of
        self._tables = {name: (table, dict(table or {})) for name in self.NAMES for table in [getattr(of, name, None)]}
        self._needs = of.requires_grad

    def restore(self) -> None:
        for name, (table, entries) in self._tables.items():
            if table is None and getattr(self._of, name, None) is not None:
                setattr(self._of, name, None)
            elif table is not None:
                table.clear()
                table.update(entries)
        if self._of.requires_grad != self._needs:
            self._of.requires_grad_(self._needs)


def _mark(weight: Any) -> Mark:
    """A cheap signature of a weight: its memory, dtype and shape, and a hash of the bytes of a sample."""
    if weight.is_meta:  # offloaded: what a pass reads is a copy
        return 0, weight.dtype, tuple(weight.shape), 0
    flat = weight.detach().reshape(-1)
    every = max(1, flat.numel() // SAMPLE)
    sample = flat[::every].contiguous().cpu().view(torch.uint8)
    return weight.data_ptr(), weight.dtype, tuple(weight.shape), hash(sample.numpy().tobytes())
