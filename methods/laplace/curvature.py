"""Curvature of the answers with respect to the adapters, from one forward pass and one backward pass per direction.

torch.func cannot pass through the autograd functions of bitsandbytes, so nothing here differentiates a function of the
parameters. A forward pass records what goes into and comes out of every adapter map y_t = W x_t; ordinary backward
passes give g_t = d(v . logits) / d y_t for a whole batch at once. Then, for example b,

    d(v . logits_b) / dW = sum_t g_bt x_bt^T.

With p the softmax of the logits, the Hessian of the cross-entropy is H = diag(p) - p p^T = R R^T with C - 1 columns, so
the generalised Gauss-Newton matrix (= exact Fisher) sum_b J_b^T H_b J_b costs C - 1 backward passes a batch. Padding
is masked out. Shapes: B examples, T tokens, C answers; W is (out, in).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from bench.data.batches import Batch
from bench.model.adapters import Adapter


class Adapted(Protocol):
    """The part of a model that curvature needs: :class:`bench.model.choice_model.ChoiceModel` has it."""

    @property
    def adapters(self) -> dict[str, Adapter]:
        """The linear map of every adapter parameter, and the layer it adapts."""

    def logits(self, batch: Batch) -> Tensor:
        """(B, C) logits."""


class Tape:
    """One recorded forward pass.

    Attributes:
        logits: (B, C), with their graph.
        inputs: name -> (B, T, in), zero at padding, in float32 or wider; (B, 1, in) for maps of the answer head, whose
            output is read at the last position only.
        sources: name -> a number that two parameters share when their maps read the same tensor (A of q and of v).

    Raises:
        ValueError: a map did not see (B, T, in), or saw more than one input, as in a mixture of experts.
    """

    def __init__(self, model: Adapted, batch: Batch, names: Sequence[str]) -> None:
        adapters = {name: model.adapters[name] for name in names}
        self._mask = batch.attention_mask.unsqueeze(-1)
        self.at_end = {name for name, adapter in adapters.items() if adapter.at_end}
        read: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
        given: dict[str, Tensor] = {}  # the tensors themselves, so that none is freed and its identity used again

        def keep(name: str) -> Any:
            return lambda module, args, output: read[name].append((args[0], output))

        def note(name: str) -> Any:
            return lambda module, args: given.__setitem__(name, args[0])

        handles = [a.linear.register_forward_hook(keep(name)) for name, a in adapters.items()]
        handles += [a.host.register_forward_pre_hook(note(name)) for name, a in adapters.items()]
        try:
            with torch.enable_grad():
                self.logits = model.logits(batch.padded())
        finally:
            for handle in handles:
                handle.remove()
        for name, seen in read.items():
            if len(seen) != 1:
                raise ValueError(
                    f"The adapter map {name} ran {len(seen)} times in one forward pass: curvature needs exactly one. "
                    "Choose other lora.targets."
                )
        self._outputs = {name: seen[0][1] for name, seen in read.items()}
        tensors = list({id(tensor): tensor for tensor in given.values()}.values())
        self.sources: dict[str, int] = {}
        self.inputs: dict[str, Tensor] = {}
        rows: dict[int, Tensor] = {}
        for number, (name, adapter) in enumerate(adapters.items()):
            place = next(i for i, tensor in enumerate(tensors) if tensor is given[name])
            source = place if adapter.first else len(tensors) + number
            if source not in rows:
                rows[source] = self._rows(name, read[name][0][0].detach())
            self.sources[name], self.inputs[name] = source, rows[source]

    def pull(self, vectors: Tensor, last: bool = False) -> dict[str, Tensor]:
        """name -> (B, T, out): gradient of sum_b vectors_b . logits_b at each output; ``last`` frees the graph."""
        wanted = list(self._outputs.values())
        found = torch.autograd.grad(self.logits, wanted, vectors, retain_graph=not last, allow_unused=True)
        pairs = zip(self._outputs, wanted, found, strict=True)
        return {name: self._rows(name, torch.zeros_like(out) if g is None else g) for name, out, g in pairs}

    def gradients(self, vectors: Tensor, last: bool = False) -> dict[str, Tensor]:
        """name -> (B, out, in): gradient of vectors_b . logits_b with respect to each parameter, per example."""
        pulled = self.pull(vectors, last)
        return {name: torch.einsum("bto,bti->boi", g, self.inputs[name]) for name, g in pulled.items()}

    def mean_input(self, name: str) -> Tensor:
        """(B, in): the mean input of a map over the tokens that are not padding."""
        total = self.inputs[name].sum(1)
        return total if name in self.at_end else total / self._mask.sum(1).to(total.device)

    def _rows(self, name: str, tensor: Tensor) -> Tensor:
        b, t, _ = self._mask.shape
        if name in self.at_end:
            return tensor.to(torch.promote_types(tensor.dtype, torch.float32)).reshape(b, -1, tensor.shape[-1])[:, -1:]
        if tensor.shape[:-1] not in ((b, t), (b * t,)):
            raise ValueError(
                f"The adapter map {name} sees {tuple(tensor.shape)} for {b} prompts of {t} tokens: curvature needs one "
                "row per token. Choose other lora.targets."
            )
        wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        return wide.reshape(b, t, -1) * self._mask.to(wide.device)


def jacobians(model: Adapted, batch: Batch, names: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
    """(name -> (B, C, out, in), (B, C) logits): C backward passes for the whole batch."""
    tape = Tape(model, batch, names)
    count = tape.logits.shape[1]
    columns = []
    for c in range(count):
        direction = torch.zeros_like(tape.logits)
        direction[:, c] = 1
        columns.append(tape.gradients(direction, last=c == count - 1))
    logits = tape.logits.detach()
    return {name: torch.stack([column[name] for column in columns], 1).to(logits.device) for name in names}, logits


def roots(logits: Tensor) -> Tensor:
    """(C - 1, B, C) vectors r with sum_k r_k r_k^T = diag(p) - p p^T for each of (B, C) logits.

    diag(p) - p p^T = D (I - s s^T) D with s = sqrt(p), D = diag(s). A Householder reflection that takes s to the last
    axis has the other axes' images orthonormal and orthogonal to s: I - s s^T = Q Q^T.
    """
    s = logits.detach().double().softmax(-1).sqrt()
    c = s.shape[-1]
    v = s.clone()
    v[:, -1] += 1  # s >= 0, so nothing cancels
    q = torch.eye(c, device=s.device, dtype=s.dtype)[:, : c - 1] - v.unsqueeze(2) * (
        v[:, None, : c - 1] / (1 + s[:, -1])[:, None, None]
    )
    return (s.unsqueeze(2) * q).permute(2, 0, 1).to(logits.dtype)


def diagonal(tape: Tape) -> dict[str, Tensor]:
    """name -> (out, in): the diagonal of the GGN, sum_b sum_k (J_b^T r_bk)^2."""
    directions = roots(tape.logits)
    total: dict[str, Tensor] = {}
    for k, vectors in enumerate(directions):
        for name, gradient in tape.gradients(vectors, last=k == len(directions) - 1).items():
            square = gradient.square().sum(0)
            total[name] = total[name] + square if name in total else square
    return total


def output_gradients(tape: Tape) -> Iterator[dict[str, Tensor]]:
    """For each of the C - 1 roots of H: name -> (B, T, out) gradients at the maps' outputs."""
    directions = roots(tape.logits)
    for k, vectors in enumerate(directions):
        yield tape.pull(vectors, last=k == len(directions) - 1)
