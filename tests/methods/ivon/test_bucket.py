"""IVON's arithmetic in blocks against the same rule written plainly on whole tensors, bit by bit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from methods.ivon import bucket
from methods.ivon.optimizer import IVON

SHAPES = [(3, 40), (7,), (), (2, 3, 5), (50, 3), (0,), (61,)]  # cut by rows, joined, and of no whole group of 16
STEPS = 6


class Plain:
    """The rule on one flat tensor: draws by ``theta``, their gradients by ``first`` and ``further``, then ``step``."""

    def __init__(self, mean: Tensor, group: dict[str, Any], generator: torch.Generator) -> None:
        self.mean, self.group, self.generator = mean, group, generator
        dtype = torch.promote_types(mean.dtype, torch.float32)
        self.h = torch.full((len(mean),), group["h0"], dtype=dtype)
        self.g = torch.zeros_like(self.h)
        self.t = self.clipped = 0

    def theta(self) -> Tensor:
        noise = torch.randn(len(self.h), generator=self.generator, dtype=self.h.dtype)
        self.noise = noise * ((self.h + self.group["weight_decay"]) * self.group["ess"]).rsqrt()
        theta: Tensor = (self.mean + self.noise).to(self.mean.dtype)
        return theta

    def first(self, gradient: Tensor) -> None:
        self.gradient, self.product = gradient, None

    def further(self, gradient: Tensor, earlier: Tensor) -> None:
        """Another draw, after ``first``; ``earlier`` is the noise of the draw before where that was the only one."""
        before = self.gradient.to(self.h.dtype)
        known = earlier * before if self.product is None else self.product
        self.product = torch.addcmul(known, gradient.to(self.h.dtype), self.noise)
        self.gradient = self.gradient + gradient

    def step(self, edited: Tensor) -> None:
        group, grad = self.group, edited.to(self.h.dtype)
        if self.product is None:
            product = self.noise * grad
        else:
            at_exit = self.gradient.to(self.h.dtype)
            product = torch.where(at_exit == 0, torch.ones_like(grad), grad / at_exit) * self.product
        self.t += 1
        delta, rate, radius = group["weight_decay"], 1 - group["beta2"], group["clip_radius"]
        old = self.h + delta
        u = (product * old * (rate * group["ess"])).sub(self.h, alpha=rate)
        self.h = (self.h + u).addcdiv(u.square(), old, value=0.5)
        self.g = self.g.lerp(grad, 1 - group["beta1"])
        newton = self.g / (1 - group["beta1"] ** self.t)
        if delta and group["shrink_mean"]:
            newton = newton.add(self.mean, alpha=delta)
        newton = newton / (self.h + delta)
        self.clipped = int((newton.abs() > radius).sum())
        self.mean = self.mean.clone().add_(newton.clamp(-radius, radius), alpha=-group["lr"])


def gradient_at(theta: Tensor, number: int) -> Tensor:
    """Of sum (theta - c)^2 / 2, with zeros here and there."""
    gradient = theta - 0.1 * (number % 3)
    gradient[number % 5 :: 7] = 0
    return gradient


def hand_over(params: list[Parameter], flat: Tensor) -> None:
    for p, piece in zip(params, flat.split([p.numel() for p in params]), strict=True):
        p.grad = piece.view(p.shape).clone()


def flat_of(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@pytest.mark.parametrize("block", [7, 64, 2**16])
@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_radius": 0.3},
        {"weight_decay": 0.1, "clip_radius": 0.3},
        {"weight_decay": 0.1, "shrink_mean": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_blocks_follow_the_plain_rule_bit_by_bit(
    dtype: torch.dtype, options: dict[str, Any], draws: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "BLOCK", block)
    params = [Parameter(torch.randn(s, generator=torch.Generator().manual_seed(1)).to(dtype)) for s in SHAPES]
    ours, theirs = torch.Generator().manual_seed(2), torch.Generator().manual_seed(2)
    optimizer = IVON(params, 0.05, ess=30.0, h0=0.5, beta2=0.99, generator=ours, **options)
    group = {**optimizer.param_groups[0]}
    plain = Plain(flat_of([p.detach() for p in params]), group, theirs)
    clipped = 0
    for step in range(STEPS):
        for draw in range(draws):
            earlier = plain.noise if draw else torch.empty(0)
            theta = plain.theta()
            gradient = gradient_at(theta, draws * step + draw)
            with optimizer.sampled():
                assert torch.equal(flat_of([p.detach() for p in params]), theta)
                hand_over(params, gradient)
            assert torch.equal(flat_of([p.detach() for p in params]), plain.mean)
            if draw:
                plain.further(gradient, earlier)
            else:
                plain.first(gradient)
        edited = plain.gradient * 0.5
        hand_over(params, edited)  # as clipping by norm does it
        optimizer.step()
        optimizer.zero_grad()
        plain.step(edited)
        state = [optimizer.state[p] for p in params]
        assert torch.equal(flat_of([p.detach() for p in params]), plain.mean)
        assert torch.equal(flat_of([each["hessian"] for each in state]), plain.h)
        assert torch.equal(flat_of([each["momentum"] for each in state]), plain.g)
        assert int(optimizer.buckets[0].clipped) == plain.clipped
        clipped += plain.clipped
    assert (clipped > 0) == (options.get("clip_radius", math.inf) < math.inf)
    assert torch.equal(ours.get_state(), theirs.get_state())


def test_a_draw_that_fails_half_way_leaves_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "BLOCK", 64)

    class Failing(IVON):
        def _fill(self, noise: Tensor) -> None:
            self.filled = getattr(self, "filled", 0) + 1
            if self.filled == 3:
                raise MemoryError
            super()._fill(noise)

    params = [Parameter(torch.randn(40, 5)), Parameter(torch.randn(9))]
    before = [p.detach().clone() for p in params]
    optimizer = Failing(params, 0.1, ess=1.0, h0=1.0)
    with pytest.raises(MemoryError), optimizer.sampled():
        raise AssertionError("not reached")
    assert all(torch.equal(p, b) and p.grad is None for p, b in zip(params, before, strict=True))
    with optimizer.sampled():
        assert not any(torch.equal(p, b) for p, b in zip(params, before, strict=True))
    assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))


def test_the_count_of_clipped_coordinates_is_forgotten_with_the_state() -> None:
    w = Parameter(torch.zeros(3))
    optimizer = IVON([w], 0.1, ess=1.0, h0=1.0, clip_radius=1e-3)
    fresh = optimizer.state_dict()
    assert int(optimizer.buckets[0].clipped) == 0
    with optimizer.sampled():
        w.grad = torch.tensor([5.0, 0.0, -5.0])
    optimizer.step()
    assert int(optimizer.buckets[0].clipped) == 2
    optimizer.load_state_dict(fresh)
    assert int(optimizer.buckets[0].clipped) == 0
