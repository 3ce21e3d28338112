"""Draws of the adapters side by side: one forward pass in which each draw has its own rows.

With S draws and B prompts a batch has S B rows; rows s B to (s + 1) B pass the base like any others and the adapter
matrices of draw s, as one batched product for each matrix. On a GPU, where a pass of a small model costs its launches,
S draws then cost little more than one, and a quantised base is dequantised once for all of them. Predictions are those
of one draw after the other, up to rounding.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.data.batches import Batch
from bench.model.adapters import Adapter
from bench.posterior import Params

MOST_TOKENS = 16384  # of a pass, pads included
MOST_DRAWS = 16  # held at once


class NotRowWise(Exception):
    """An adapter matrix does not see one row per token, in the order of the batch (a mixture of experts)."""


def gains(device: torch.device) -> bool:
    """Whether draws are faster side by side: on a GPU. A CPU computes row after row in either way."""
    return device.type == "cuda"


def alike(draws: Sequence[Params], places: Mapping[str, Adapter]) -> bool:
    """Whether all draws are values of the same adapter matrices, and of nothing else (DoRA has magnitudes, too)."""
    shapes = [{name: value.shape for name, value in draw.items()} for draw in draws]
    return all(found == shapes[0] for found in shapes) and set(shapes[0]) <= set(places)


def repeated(batch: Batch, count: int) -> Batch:
    """The prompts ``count`` times, one repetition after the other."""
    values: dict[str, Any] = {field.name: getattr(batch.padded(), field.name) for field in dataclasses.fields(batch)}
    for name, value in values.items():
        if isinstance(value, Tensor):
            values[name] = value.repeat(count, *[1] * (value.ndim - 1))
    return Batch(**{**values, "ids": batch.ids * count})


def stack(places: Mapping[str, Adapter], draws: Sequence[Params]) -> dict[str, Tensor]:
    """name -> (S, out, in): the matrices of S draws on the devices of their places."""
    found = {}
    for name in draws[0]:
        weight: Any = places[name].linear.weight
        found[name] = torch.stack([draw[name].to(weight.device, weight.dtype) for draw in draws])
    return found


@contextlib.contextmanager
def stacked(places: Mapping[str, Adapter], matrices: Mapping[str, Tensor], batch: Batch) -> Iterator[None]:
    """Passes of ``batch``, S times :func:`repeated`, send each repetition through its draw of S matrices inside.

    Raises:
        NotRowWise: in such a pass.
    """
    rows, width = batch.input_ids.shape
    changed = []
    try:
        for name, weights in matrices.items():
            linear: Any = places[name].linear
            linear.forward = _product(weights, {len(weights) * rows * width, len(weights) * rows})
            changed.append(linear)
        yield
    finally:
        for linear in changed:
            del linear.forward  # the class's own shows again


def _product(weights: Tensor, counts: set[int]) -> Callable[[Tensor], Tensor]:
    """x -> x W_s^T for the rows of each draw s; ``counts``: numbers of rows that x may have."""

    def forward(x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        if len(flat) not in counts:
            raise NotRowWise(f"{len(flat)} rows, not one of {sorted(counts)}")
        found = torch.bmm(flat.reshape(len(weights), -1, flat.shape[-1]), weights.mT)
        return found.reshape(*x.shape[:-1], weights.shape[1])

    return forward
