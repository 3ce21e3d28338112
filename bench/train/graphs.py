"""Loss and gradients as CUDA graphs: a step of a small model costs its arithmetic, not its thousands of launches.

A batch's shape (examples, padded length) has one graph. The first batch of a shape runs twice, to warm up and to be
recorded; later ones copy their tensors into the recorded ones and replay. Dropout reads the device generator's seed and
offset at every replay, so masks still depend on the seed of the step alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.data.batches import Batch
from bench.train.replay import hooked

Objective = Callable[[Batch], Tensor]
Run = Callable[[], None]  # forward and backward of one fixed batch, into fixed tensors
Recorder = Callable[[Run], Run]


class CudaRecorder:
    """Runs a pass once, records it as a CUDA graph and returns its replay. The graphs of a recorder share memory."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Run) -> Run:
        state = torch.cuda.get_rng_state()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            run()
        torch.cuda.set_rng_state(state)  # the first replay draws what later ones of this step would
        return graph.replay


class GraphedLoss:
    """``objective`` and its backward pass by replay: returns the loss, and sets ``p.grad`` of all ``parameters``.

    All calls write the same gradient tensors: use them before the next call, as a step with one pass does.
    """

    def __init__(self, objective: Objective, parameters: Sequence[Tensor], record: Recorder) -> None:
        self._objective, self._parameters, self._record = objective, list(parameters), record
        self._loss = torch.zeros((), device=self._parameters[0].device)
        self._gradients = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._recorded: dict[tuple[int, ...], tuple[Batch, Run]] = {}

    def __len__(self) -> int:
        """The number of shapes seen."""
        return len(self._recorded)

    def __call__(self, batch: Batch) -> Tensor:
        if any(map(hooked, self._parameters)):
            raise ValueError(
                "A hook on the gradient of an adapter would not run where a CUDA graph is replayed: leave out --graphs."
            )
        if batch.packed is not None:
            raise ValueError("Packed prompts have no graph: leave out --graphs, or set packing = false in [model].")
        shape = tuple(size for tensor in _tensors(batch) for size in tensor.shape)
        if shape not in self._recorded:
            self._recorded[shape] = self._new(batch)
        held, replay = self._recorded[shape]
        for mine, new in zip(_tensors(held), _tensors(batch), strict=True):
            mine.copy_(new)
        replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._loss

    def _new(self, batch: Batch) -> tuple[Batch, Run]:
        values: dict[str, Any] = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
        values.update({name: value.clone() for name, value in values.items() if isinstance(value, Tensor)})
        # transformers drops a mask without pads unless a graph is recorded: with one, the run that warms up takes the
        # way that is recorded (and compiled layers are compiled for it). The batch itself is copied over it.
        values["attention_mask"][0, 0] = 0
        held = Batch(**values)

        def run() -> None:
            loss = self._objective(held)
            found = torch.autograd.grad(loss, self._parameters, materialize_grads=True)
            torch._foreach_copy_(self._gradients, list(found))
            self._loss.copy_(loss.detach())

        return held, self._record(run)


def _tensors(batch: Batch) -> list[Tensor]:
    values = (getattr(batch, field.name) for field in dataclasses.fields(batch))
    return [value for value in values if isinstance(value, Tensor)]
