"""IVON's arithmetic on the parameters of one group that share device and dtype.

All of it is elementwise and runs on flat buffers, not on each of the many small LoRA factors: on a CPU block by block,
so that every operation on a block finds it in the cache, elsewhere in one block. Blocks change no bit of a result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from methods.ivon.state import step_size

BLOCK = 2**16  # elements: a few buffers of this size fit in cache, and call overhead is small relative to the work
FILL = 16  # a CPU's normal numbers come in such groups: filling buffers of whole groups in turn gives those of one call


@dataclass(frozen=True)
class Part:
    """A parameter, or some of its rows: ``number`` is its place in the bucket, ``rows`` None for all of it."""

    number: int
    rows: slice | None
    shape: tuple[int, ...]

    def of(self, tensor: Tensor) -> Tensor:
        """This part of a tensor in the parameter's shape, a view."""
        return tensor if self.rows is None else tensor[self.rows]


class Flat:
    """A flat buffer with views of it: ``blocks``, and in each block its ``parts`` in their shapes."""

    def __init__(self, memory: Tensor, layout: Sequence[Sequence[Part]]) -> None:
        sizes = [[math.prod(part.shape) for part in parts] for parts in layout]
        self.memory = memory
        self.blocks = memory.split_with_sizes([sum(each) for each in sizes])
        self.parts = [
            [piece.view(part.shape) for piece, part in zip(block.split_with_sizes(each), parts, strict=True)]
            for block, each, parts in zip(self.blocks, sizes, layout, strict=True)
        ]


class Bucket:
    """Some parameters, what IVON knows of them, and the draws that wait for a step. Call it under ``torch.no_grad``.

    Attributes:
        group: index into ``optimizer.param_groups``; load_state_dict replaces the dictionaries themselves.
        params, device, dtype: the parameters, and what they share.
        momentum, hessian: g and h, flat, float32 or float64.
        step: number of steps done, int64, on the CPU.
    """

    def __init__(self, group: int, params: list[Tensor], h0: float) -> None:
        self.group, self.params = group, params
        self.device, self.dtype = params[0].device, params[0].dtype
        n, state_dtype = sum(p.numel() for p in params), torch.promote_types(self.dtype, torch.float32)
        self.layout = _layout(params, BLOCK if self.device.type == "cpu" else max(n, 1))
        self.momentum = torch.zeros(n, device=self.device, dtype=state_dtype)
        self.hessian = torch.full_like(self.momentum, h0)
        self.step = torch.zeros((), dtype=torch.int64)
        # Buffers are kept: memory that is new at every step costs more than what is written to it.
        self._momentum, self._hessian, self._noise, self._update = (
            Flat(memory, self.layout) for memory in (self.momentum, self.hessian, self._empty(), self._empty())
        )
        self._mean = Flat(torch.empty(n, device=self.device, dtype=self.dtype), self.layout)
        sizes = [len(block) for block in self._hessian.blocks]
        scratch = [self.momentum.new_empty(max(sizes)) for _ in range(3)]
        self._scratch = [tuple(each[:size] for each in scratch) for size in sizes]
        self._saved = 0  # blocks whose mean is in _mean, and whose parameters may be a draw
        self._radius = math.inf  # that clipped what is in _update
        self.forget()

    def _empty(self) -> Tensor:
        return torch.empty_like(self.momentum)

    def forget(self) -> None:
        """Drop the draws that wait for a step."""
        self._pending: Flat | None = None  # theta - m before rounding to dtype, while exactly one draw is pending
        self._product: Flat | None = None  # sum_s g_s (theta_s - m), while several are
        self._at_exit: Flat | None = None  # p.grad as the last of several draws left it

    def pieces(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat buffer in the shapes of the parameters."""
        parts = flat.split_with_sizes([p.numel() for p in self.params])
        return [part.view(p.shape) for part, p in zip(parts, self.params, strict=True)]

    def load(self, momenta: list[Tensor], hessians: list[Tensor], step: int) -> None:
        """Take over a saved state."""
        torch._foreach_copy_(self.pieces(self.momentum), momenta)
        torch._foreach_copy_(self.pieces(self.hessian), hessians)
        self.step.fill_(step)
        self._radius = math.inf
        self.forget()

    @property
    def clipped(self) -> Tensor:
        """Number of coordinates clipped in the last step; 0 before it. Counted when it is read."""
        if self._radius == math.inf:
            return torch.zeros((), dtype=torch.int64)
        return self._update.memory.abs().ge_(self._radius).count_nonzero()

    def _rows(self, n: int) -> list[Tensor]:
        """The parameters' parts in block ``n``."""
        return [part.of(self.params[part.number]) for part in self.layout[n]]

    def _gather(self, n: int, tensors: Sequence[Tensor | None], out: Tensor) -> Tensor:
        """Block ``n`` of one tensor per parameter (None counts as zero), in ``out`` or a view: do not write to it."""
        found = []
        for part in self.layout[n]:
            tensor = tensors[part.number]
            found.append(out.new_zeros(math.prod(part.shape)) if tensor is None else part.of(tensor).reshape(-1))
        return found[0] if len(found) == 1 and found[0].dtype == out.dtype else torch.cat(found, out=out)

    # A draw

    def draw(self, group: dict[str, Any], fill: Callable[[Tensor], None]) -> Flat:
        """Make the parameters a draw and return theta - m. ``fill`` fills a buffer with normal numbers."""
        noise = self._noise if self._pending is None else Flat(self._empty(), self.layout)
        delta, ess = float(group["weight_decay"]), group["ess"]
        done, end, total = 0, 0, len(noise.memory)
        for n, values in enumerate(noise.blocks):
            rows, precision, hessian = self._rows(n), self._scratch[n][0], self._hessian.blocks[n]
            torch._foreach_copy_(self._mean.parts[n], rows)
            self._saved = n + 1
            end += len(values)
            if end > done:
                start, done = done, min(total, -(-end // FILL) * FILL)
                done = done if total - done >= FILL else total
                fill(noise.memory[start:done])
            if delta:
                torch.add(hessian, delta, out=precision).mul_(ess)
            else:
                torch.mul(hessian, ess, out=precision)
            values.mul_(precision.rsqrt_())
            torch._foreach_add_(rows, noise.parts[n])
        return noise

    def restore(self) -> None:
        """Make the parameters the mean again."""
        rows = [part for n in range(self._saved) for part in self._rows(n)]
        means = [part for parts in self._mean.parts[: self._saved] for part in parts]
        if rows:
            torch._foreach_copy_(rows, means)
        self._saved = 0

    def collect(self, noise: Flat, grads: Sequence[Tensor | None], first: bool) -> None:
        """Add a draw's gradients to p.grad, and what belongs to them to what `update` needs for hhat."""
        if first:
            self._pending = noise
        else:
            self._add_product(noise, grads)
        sums: list[Tensor] = []
        terms: list[Tensor] = []
        for p, g in zip(self.params, grads, strict=True):
            if p.grad is None:
                p.grad = g
            elif g is not None:
                sums.append(p.grad)
                terms.append(g)
        if sums:
            torch._foreach_add_(sums, terms)
        if not first:
            total = [p.grad for p in self.params]
            self._at_exit = self._at_exit or Flat(self._empty(), self.layout)
            for n, block in enumerate(self._at_exit.blocks):
                block.copy_(self._gather(n, total, block))

    def _add_product(self, noise: Flat, grads: Sequence[Tensor | None]) -> None:
        before, product = [p.grad for p in self.params], self._product or Flat(self._empty(), self.layout)
        for n, (one, two, _) in enumerate(self._scratch):
            earlier = self._weighted(n, self._gather(n, before, one), two)
            torch.addcmul(earlier, self._gather(n, grads, one), noise.blocks[n], out=product.blocks[n])
        self._product, self._pending = product, None

    def _weighted(self, n: int, grad: Tensor, out: Tensor) -> Tensor:
        """sum_s g_s (theta_s - m) over pending draws, with the edits that led to ``grad``, p.grad as it is; in ``out``.

        Uses up the product: the caller replaces or forgets it.
        """
        if self._pending is not None:
            return torch.mul(self._pending.blocks[n], grad, out=out)
        assert self._product is not None and self._at_exit is not None
        for part, piece in zip(self.layout[n], self._product.parts[n], strict=True):
            if self.params[part.number].grad is None:  # set to None by hand, as by model.zero_grad(): draws forgotten
                piece.zero_()
        at_exit = self._at_exit.blocks[n]
        return torch.div(grad, at_exit, out=out).masked_fill_(at_exit == 0, 1).mul_(self._product.blocks[n])

    # The step

    def update(self, group: dict[str, Any]) -> None:
        """Update g, h and m from p.grad and the pending draws, which are thereby used up."""
        grads = [p.grad for p in self.params]
        delta, beta1, radius = float(group["weight_decay"]), group["beta1"], float(group["clip_radius"])
        shrinks = delta and group.get("shrink_mean", True)
        self.step += 1
        correction = 1 - beta1 ** int(self.step)
        for n, (one, *two) in enumerate(self._scratch):
            update, momentum, rows = self._update.blocks[n], self._momentum.blocks[n], self._rows(n)
            grad = self._gather(n, grads, update)
            curvature = _update_hessian(self._hessian.blocks[n], self._weighted(n, grad, one), two, group)
            torch.div(momentum.lerp_(grad, 1 - beta1), correction, out=update)
            if shrinks:
                update.add_(self._gather(n, self.params, self._mean.blocks[n]), alpha=delta)
            update.div_(curvature)
            if radius < math.inf:
                update.clamp_(-radius, radius)
            torch._foreach_add_(rows, self._update.parts[n], alpha=-step_size(group))
        self._radius = radius
        self.forget()


def _update_hessian(hessian: Tensor, product: Tensor, scratch: Sequence[Tensor], group: dict[str, Any]) -> Tensor:
    """The line for h, in place, from sum_s g_s (theta_s - m), which is used up; returns h + delta."""
    delta, rate = float(group["weight_decay"]), 1 - group["beta2"]
    curvature = torch.add(hessian, delta, out=scratch[0]) if delta else hessian
    change = product.mul_(curvature)  # hhat / ess
    change.mul_(rate * group["ess"]).sub_(hessian, alpha=rate)  # u
    moved = torch.add(hessian, change, out=scratch[1])
    torch.addcdiv(moved, change.square_(), curvature, value=0.5, out=hessian)
    return torch.add(hessian, delta, out=scratch[0]) if delta else hessian


def _layout(params: Sequence[Tensor], limit: int) -> list[list[Part]]:
    """The parameters in order, cut into blocks of at most ``limit`` numbers; a row is never cut."""
    blocks: list[list[Part]] = [[]]
    room = limit
    for number, p in enumerate(params):
        for part in _parts(number, p, limit):
            size = math.prod(part.shape)
            if size > room and blocks[-1]:
                blocks.append([])
                room = limit
            blocks[-1].append(part)
            room -= size
    return blocks


def _parts(number: int, p: Tensor, limit: int) -> list[Part]:
    if p.numel() <= limit or p.dim() == 0:
        return [Part(number, None, tuple(p.shape))]
    rows = max(1, limit // p[0].numel())
    starts = range(0, len(p), rows)
    return [Part(number, slice(i, i + rows), (min(rows, len(p) - i), *p.shape[1:])) for i in starts]


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
    return [Bucket(index, params, float(group["h0"])) for params in by_kind.values()]
