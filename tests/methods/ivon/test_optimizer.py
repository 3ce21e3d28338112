"""The IVON optimizer against an oracle, closed forms, formulas worked by hand, and its own promises."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from methods.ivon import bucket
from methods.ivon.optimizer import IVON


class Fed(IVON):
    """IVON with noise from a queue: one list of buffers, taken in the order in which the buckets ask."""

    def feed(self, *noise: Tensor) -> None:
        self.queue = list(noise)

    def _fill(self, noise: Tensor) -> None:
        given = self.queue.pop(0)
        assert given.shape == noise.shape
        noise.copy_(given)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parameters(dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Parameter]:
    generator = seeded(seed)
    shapes = [(3, 4), (5,), ()]
    return [Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in shapes]


@functools.cache
def batch(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = seeded(1000 + seed)
    y, scale = torch.rand(2, n, generator=generator, dtype=torch.float64)
    return 4 * y - 2, 0.5 + scale


def loss_of(params: Sequence[Tensor], seed: int) -> Tensor:
    """A random, not quadratic, loss: each seed is another mini-batch."""
    flat = torch.cat([p.reshape(-1).double() for p in params])
    y, scale = batch(len(flat), seed)
    return scale @ (flat - y).cosh().log()


def backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def train(optimizer: IVON, params: Sequence[Tensor], steps: range) -> None:
    for step in steps:
        with optimizer.sampled():
            backward(loss_of(params, step))
        optimizer.step()
        optimizer.zero_grad()


def same(a: Tensor, b: Tensor) -> bool:
    """Equal bit for bit."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


def by_hand(
    m: Tensor, g: Tensor, h: Tensor, ghat: Tensor, hhat: Tensor, t: int, group: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """The paper's update, written as in the protocol."""
    b1, b2, delta, lr = group["beta1"], group["beta2"], group["weight_decay"], group["lr"]
    if group["rescale_lr"]:
        lr = lr * (group["h0"] + delta)
    g = b1 * g + (1 - b1) * ghat
    h = b2 * h + (1 - b2) * hhat + (1 - b2) ** 2 * (h - hhat) ** 2 / (2 * (h + delta))
    xi = group["clip_radius"]
    return m - lr * ((g / (1 - b1**t) + delta * m) / (h + delta)).clamp(-xi, xi), g, h


# 1. The oracle

# ivon-opt rounds h0 to float32, for float64 parameters too: only an h0 that float32 holds can be compared.
ORACLE_SETTINGS: list[dict[str, Any]] = [
    {"lr": 0.03, "ess": 50.0, "h0": 0.5, "beta2": 0.99},
    {"lr": 0.03, "ess": 50.0, "h0": 0.5, "beta2": 0.99, "weight_decay": 0.1},
    {"lr": 0.1, "ess": 20.0, "h0": 0.1875, "beta2": 0.95, "weight_decay": 0.01, "rescale_lr": True},
    {"lr": 0.03, "ess": 1e4, "h0": 2**-10, "beta2": 1 - 1e-5, "clip_radius": 1e-3},
    {"lr": 0.3, "ess": 30.0, "h0": 0.5, "beta1": 0.5, "beta2": 0.9, "weight_decay": 0.2, "clip_radius": 0.1},
]


@pytest.mark.parametrize(("dtype", "draws"), [(torch.float64, 1), (torch.float64, 3), (torch.float32, 1)], ids=str)
@pytest.mark.parametrize("settings", ORACLE_SETTINGS)
def test_follows_ivon_opt_to_rounding(settings: dict[str, Any], dtype: torch.dtype, draws: int) -> None:
    """100 steps: distance under 1e-12 in float64, 1e-4 in float32 (seen: 2e-15 and 4e-6)."""
    oracle_module = pytest.importorskip("ivon", reason="ivon-opt, the GPL-3 oracle, is an optional test tool")
    ours, theirs = parameters(dtype), parameters(dtype)
    optimizer = IVON(ours, **settings)
    renamed = {"clip_radius": math.inf, "weight_decay": 0.0, "rescale_lr": False, **settings}
    renamed["hess_init"] = renamed.pop("h0")
    oracle = oracle_module.IVON(theirs, mc_samples=draws, **renamed)
    for step in range(100):
        for params, context in (
            (ours, optimizer.sampled),
            (theirs, lambda: oracle.sampled_params(train=True)),
        ):
            torch.default_generator.manual_seed(
                step
            )  # the oracle's whole noise is one torch.randn of the default generator
            for draw in range(draws):
                with context():
                    scale = 1 / draws if params is ours else 1.0  # the oracle averages the draws itself
                    backward(scale * loss_of(params, draws * step + draw))
                if params is theirs:
                    oracle.zero_grad()
        optimizer.step()
        optimizer.zero_grad()
        oracle.step()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-4
    for p, q, start in zip(ours, theirs, parameters(dtype), strict=True):
        assert not torch.equal(p, start)
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)
    theirs_h = oracle.param_groups[0]["hess"]
    ours_h = torch.cat([optimizer.state[p]["hessian"].reshape(-1) for p in ours])
    torch.testing.assert_close(ours_h, theirs_h, rtol=tolerance, atol=0)


# 2 and 3. Closed forms. Each problem is solved 64 times over in one tensor, with independent noise per row:
# the average over rows tells bias from fluctuation, and few steps do.

ROWS = 64


def fit(ess: float, delta: float, loss: Callable[[Tensor], Tensor], d: int) -> tuple[Tensor, Tensor]:
    """Mean and variance, ROWS x d: large steps first, then small ones to average the noise away."""
    w = Parameter(torch.zeros(ROWS, d, dtype=torch.float64))
    optimizer = IVON([w], 0.1, ess=ess, h0=1.0, weight_decay=delta, generator=seeded())
    group = optimizer.param_groups[0]
    for steps, lr, beta2 in ((500, 0.1, 0.98), (1500, 0.03, 0.998)):
        group["beta2"] = beta2
        for i in range(steps):
            group["lr"] = lr * (1 - i / steps)
            with optimizer.sampled():
                backward(loss(w))
            optimizer.step()
            optimizer.zero_grad()
    (variance,) = optimizer.posterior_variance()
    return w.detach(), variance


def assert_posterior(found: tuple[Tensor, Tensor], mean: Tensor, variance: Tensor) -> None:
    """Mean: 0.05 posterior sd on average over rows, 0.3 in each. Variance: 4 % on average, 35 % in each."""
    off, ratio = (found[0] - mean) / variance.sqrt(), found[1] / variance
    assert off.mean(0).abs().max() < 0.05 and off.abs().max() < 0.3
    assert (ratio.mean(0) - 1).abs().max() < 0.04 and ratio.log().abs().max() < 0.35


def test_finds_mean_and_variance_of_a_quadratic() -> None:
    """Loss 1/2 sum H (w - c)^2 and weight decay: m -> H c / (H + delta), v -> 1 / (ess (H + delta))."""
    hessian = torch.tensor([0.1, 0.5, 1.0, 3.0, 10.0], dtype=torch.float64)
    centre = torch.tensor([1.0, -2.0, 0.0, 3.0, 0.5], dtype=torch.float64)
    delta, ess = 0.05, 100.0
    found = fit(ess, delta, lambda w: 0.5 * (hessian * (w - centre) ** 2).sum(), 5)
    assert_posterior(found, hessian * centre / (hessian + delta), 1 / (ess * (hessian + delta)))


def test_matches_the_conjugate_linear_gaussian_posterior() -> None:
    """m is the exact posterior mean, v the best mean-field variance, 1 / diag(exact precision)."""
    generator = seeded(3)
    n, d, noise_sd, prior_precision = 60, 4, 0.7, 2.0
    mixing = torch.eye(d, dtype=torch.float64) + 0.3  # correlated inputs, so that mean field is an approximation
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing
    y = x @ torch.randn(d, generator=generator, dtype=torch.float64)
    y += noise_sd * torch.randn(n, generator=generator, dtype=torch.float64)
    precision = x.T @ x / noise_sd**2 + prior_precision * torch.eye(d, dtype=torch.float64)
    exact_mean = torch.linalg.solve(precision, x.T @ y / noise_sd**2)
    assert (torch.linalg.inv(precision).diagonal() * precision.diagonal()).max() > 1.5  # far from independent

    def loss(w: Tensor) -> Tensor:
        return ((y - w @ x.T) ** 2).mean(1).sum() / (2 * noise_sd**2)

    assert_posterior(fit(n, prior_precision / n, loss, d), exact_mean, 1 / precision.diagonal())


# 4. Restoring


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_mean_comes_back_bit_for_bit(dtype: torch.dtype) -> None:
    params = parameters(dtype)
    before = [p.detach().clone() for p in params]
    optimizer = IVON(params, 0.1, ess=1.0, h0=1.0, generator=seeded())
    with optimizer.sampled():
        assert not any(torch.equal(p, b) for p, b in zip(params, before, strict=True))
        backward(loss_of(params, 0))
    assert all(same(p.detach(), b) for p, b in zip(params, before, strict=True))
    assert all(p.is_leaf and p.requires_grad and p.grad is not None for p in params)


def test_non_contiguous_parameters_are_handled() -> None:
    plain, turned = Parameter(torch.randn(3, 4)), Parameter(torch.randn(4, 3).t())
    turned.data.copy_(plain.data)
    assert not turned.is_contiguous()
    for p in (plain, turned):
        train(IVON([p], 0.1, ess=10.0, h0=1.0, generator=seeded()), [p], range(3))
    assert torch.equal(plain, turned)


def test_an_exception_restores_mean_and_gradients_and_drops_the_draw() -> None:
    params = parameters()
    optimizer, twin_params = IVON(params, 0.1, ess=10.0, h0=1.0, generator=seeded()), parameters()
    twin = IVON(twin_params, 0.1, ess=10.0, h0=1.0, generator=seeded())
    for opt, ps in ((optimizer, params), (twin, twin_params)):
        with opt.sampled():
            backward(loss_of(ps, 0))
    means = [p.detach().clone() for p in params]
    grads = [p.grad for p in params]
    values = [g.clone() for g in grads if g is not None]
    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error), optimizer.sampled():
            backward(loss_of(params, 1))
            raise error
        assert all(same(p.detach(), m) for p, m in zip(params, means, strict=True))
        assert all(p.grad is g for p, g in zip(params, grads, strict=True))
        assert all(p.grad is not None and same(p.grad, v) for p, v in zip(params, values, strict=True))
    for opt in (optimizer, twin):
        opt.step()
    for p, q in zip(params, twin_params, strict=True):
        assert same(p.detach(), q.detach())
        assert same(optimizer.state[p]["hessian"], twin.state[q]["hessian"])


def test_a_first_draw_that_fails_leaves_nothing() -> None:
    params = parameters()
    optimizer = IVON(params, 0.1, ess=10.0, h0=1.0)
    with pytest.raises(ZeroDivisionError), optimizer.sampled():
        backward(loss_of(params, 1))
        raise ZeroDivisionError
    assert all(p.grad is None for p in params)
    with pytest.raises(RuntimeError, match="found no draw"):
        optimizer.step()


def test_leaving_by_break_or_return_counts_as_leaving() -> None:
    w = Parameter(torch.ones(2))
    optimizer = IVON([w], 0.1, ess=10.0, h0=1.0)
    for _ in range(2):
        with optimizer.sampled():
            backward(w.sum())
            break
    assert torch.equal(w, torch.ones(2))
    optimizer.step()


def test_autocast_around_the_draws_sees_fresh_weights() -> None:
    w, x = Parameter(torch.ones(8, 8)), torch.ones(8, 8)
    optimizer = IVON([w], 0.1, ess=1.0, h0=1.0, generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        at_mean = x @ w
        with optimizer.sampled():
            first = x @ w
        with optimizer.sampled():
            second = x @ w
        again = x @ w
    assert torch.equal(at_mean, again)
    assert not torch.equal(first, second) and not torch.equal(first, at_mean)


# 5. Accumulation and edits, against the formula

HYPER: dict[str, Any] = {
    "lr": 0.1,
    "ess": 25.0,
    "h0": 0.8,
    "beta1": 0.7,
    "beta2": 0.9,
    "weight_decay": 0.05,
    "clip_radius": 0.6,
    "rescale_lr": True,
}


@pytest.mark.parametrize(
    "edit",
    [
        None,
        "clip_norm",
        "clip_value",
        "halve",
        "mask",
    ],
)
@pytest.mark.parametrize(("draws", "micro"), [(1, 1), (1, 3), (2, 1), (3, 2)])
def test_accumulation_and_edits_equal_the_formula(draws: int, micro: int, edit: str | None) -> None:
    """`draws` draws of `micro` backward passes each, gradients edited before the step; three steps."""
    w = Parameter(torch.tensor([0.5, -1.0, 2.0, 0.1], dtype=torch.float64))
    optimizer = Fed([w], **HYPER)
    m, g, h = (
        w.detach().clone(),
        torch.zeros(4, dtype=torch.float64),
        torch.full((4,), 0.8, dtype=torch.float64),
    )
    generator = seeded(5)
    for t in range(1, 4):
        ghat, hhat = torch.zeros_like(m), torch.zeros_like(m)
        v = 1 / (HYPER["ess"] * (h + HYPER["weight_decay"]))
        for draw in range(draws):
            eps = torch.randn(4, generator=generator, dtype=torch.float64)
            optimizer.feed(eps)
            theta = (m + v.sqrt() * eps).requires_grad_()
            with optimizer.sampled():
                torch.testing.assert_close(w.detach(), theta.detach(), rtol=1e-14, atol=0)
                for i in range(micro):
                    backward(loss_of([w], 10 * draw + i) / (draws * micro))
            total = sum(loss_of([theta], 10 * draw + i) for i in range(micro)) / (draws * micro)
            (gradient,) = torch.autograd.grad(total, theta)  # type: ignore[arg-type]
            ghat += gradient
            hhat += gradient * (theta.detach() - m) / v
        assert w.grad is not None
        torch.testing.assert_close(w.grad, ghat, rtol=1e-12, atol=1e-15)
        factor = torch.ones_like(ghat)
        if edit == "clip_norm":
            factor *= min(1.0, 0.1 / (float(ghat.norm()) + 1e-6))
            torch.nn.utils.clip_grad_norm_([w], 0.1)
            assert float(factor[0]) < 1
        elif edit == "clip_value":
            factor = ghat.clamp(-0.05, 0.05) / ghat
            torch.nn.utils.clip_grad_value_([w], 0.05)
        elif edit == "halve":
            factor *= 0.5
            w.grad = w.grad / 2
        elif edit == "mask":
            factor[1] = 0
            w.grad[1] = 0
        optimizer.step()
        optimizer.zero_grad()
        m, g, h = by_hand(m, g, h, factor * ghat, factor * hhat, t, HYPER)
        torch.testing.assert_close(w.detach(), m, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(optimizer.state[w]["hessian"], h, rtol=1e-11, atol=0)
        torch.testing.assert_close(optimizer.state[w]["momentum"], g, rtol=1e-11, atol=1e-15)


def test_with_one_draw_any_edit_is_honoured() -> None:
    """hhat = p.grad * (theta - m) / v also where the edit adds to a zero gradient."""
    w = Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = Fed([w], 0.1, ess=4.0, h0=1.0, beta2=0.5)
    optimizer.feed(torch.tensor([1.0, -2.0]))
    with optimizer.sampled():
        backward(w[0] * 3)
    assert w.grad is not None
    w.grad += torch.tensor([0.0, 5.0])
    optimizer.step()
    hhat = torch.tensor([3 * 0.5 * 4, 5 * -1.0 * 4], dtype=torch.float64)  # g (theta - m) / v with sd 1/2, v 1/4
    expected = 0.5 + 0.5 * hhat + 0.25 * (1 - hhat) ** 2 / 2
    torch.testing.assert_close(optimizer.state[w]["hessian"], expected)


def test_edits_between_draws_count() -> None:
    """Gradients may be rescaled before the next draw; where they are zero the factor is 1."""
    w = Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = Fed([w], 0.1, ess=4.0, h0=1.0, beta2=0.5)
    hhat = torch.zeros(2, dtype=torch.float64)
    for eps in ([1.0, 1.0], [3.0, -1.0], [-2.0, 0.5]):
        optimizer.feed(torch.tensor(eps))
        with optimizer.sampled():
            backward((w * torch.tensor([2.0, 0.0])).sum())
        hhat = 0.5 * (hhat + torch.tensor([2.0, 0.0]) * torch.tensor(eps, dtype=torch.float64) / 2 * 4)
        assert w.grad is not None
        w.grad *= 0.5
    optimizer.step()
    assert w.grad is not None and w.grad.tolist() == [1.75, 0.0]
    expected = 0.5 + 0.5 * hhat + 0.25 * (1 - hhat) ** 2 / 2
    torch.testing.assert_close(optimizer.state[w]["hessian"], expected)


def test_a_grad_scaler_changes_nothing_and_its_skipped_steps_do_no_harm() -> None:
    """The unscaled gradient is the one that ghat and hhat see."""
    one, two = parameters(torch.float32), parameters(torch.float32)
    plain = IVON(one, 0.1, ess=10.0, h0=1.0, beta2=0.9, generator=seeded())
    scaled = IVON(two, 0.1, ess=10.0, h0=1.0, beta2=0.9, generator=seeded())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    train(plain, one, range(3))
    for step in range(3):
        with scaled.sampled():
            backward(scaler.scale(loss_of(two, step)))
        scaler.step(scaled)
        scaler.update()
        scaled.zero_grad()
    for p, q in zip(one, two, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(plain.state[p]["hessian"], scaled.state[q]["hessian"], rtol=1e-6, atol=0)
    before = [p.detach().clone() for p in two]
    with scaled.sampled():
        backward(scaler.scale(loss_of(two, 3)) * math.inf)
    scaler.step(scaled)
    scaled.zero_grad()
    assert all(same(p.detach(), b) for p, b in zip(two, before, strict=True))
    with pytest.raises(RuntimeError, match="found no draw"):
        scaled.step()


def test_a_gradient_from_before_the_draw_is_added() -> None:
    w = Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = Fed([w], 0.1, ess=4.0, h0=1.0, beta1=0.0, beta2=1.0)
    backward((w * torch.tensor([1.0, 2.0])).sum())
    optimizer.feed(torch.tensor([1.0, 1.0]))
    with optimizer.sampled():
        assert w.grad is None
        backward((w * 10).sum())
    assert w.grad is not None and w.grad.tolist() == [11.0, 12.0]
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.tensor([-1.1, -1.2], dtype=torch.float64))
    assert optimizer.state[w]["hessian"].tolist() == [1.0, 1.0]  # beta2 = 1 freezes h


# 6. Groups


def mixed() -> list[Parameter]:
    generator = seeded(9)
    kinds = [(torch.float64, (3,)), (torch.float32, (2, 2)), (torch.bfloat16, (4,)), (torch.float64, (2,))]
    return [Parameter(torch.randn(s, generator=generator).to(d)) for d, s in kinds]


def test_mixed_groups_equal_separate_optimizers() -> None:
    together, apart = mixed(), mixed()
    one: dict[str, Any] = {"ess": 30.0, "h0": 0.5, "beta2": 0.9, "weight_decay": 0.1}
    two: dict[str, Any] = {
        "lr": 0.2,
        "ess": 300.0,
        "h0": 0.1,
        "beta1": 0.5,
        "clip_radius": 0.3,
        "rescale_lr": True,
    }
    optimizer = Fed([{"params": together[:3]}, {"params": together[3:], **two}], 0.05, **one)
    separate = [Fed([p], 0.05, **one) for p in apart[:3]] + [Fed([apart[3]], **{**one, **two})]
    generator = seeded(1)
    for step in range(20):
        noise = [torch.randn(p.numel(), generator=generator, dtype=torch.float64) for p in together]
        optimizer.feed(*noise)
        with optimizer.sampled():
            backward(loss_of(together, step))
        optimizer.step()
        optimizer.zero_grad()
        for opt, eps in zip(separate, noise, strict=True):
            opt.feed(eps)
        contexts = [opt.sampled() for opt in separate]
        for context in contexts:
            context.__enter__()
        backward(loss_of(apart, step))
        for context, opt in zip(contexts, separate, strict=True):
            context.__exit__(None, None, None)
            opt.step()
            opt.zero_grad()
    variances = optimizer.posterior_variance()
    for i, (p, q, opt) in enumerate(zip(together, apart, separate, strict=True)):
        assert same(p.detach(), q.detach())
        assert same(variances[i], opt.posterior_variance()[0])
        assert variances[i].shape == p.shape
    assert [v.dtype for v in variances] == [torch.float64, torch.float32, torch.float32, torch.float64]


def test_add_param_group_starts_at_its_own_step_one() -> None:
    first, late = parameters(seed=1), parameters(seed=2)
    optimizer = IVON(first, 0.1, ess=20.0, h0=0.5, generator=seeded())
    train(optimizer, first, range(5))
    optimizer.add_param_group({"params": late, "lr": 0.05, "h0": 0.2})
    assert optimizer.param_groups[1]["ess"] == 20.0
    assert int(optimizer.state[first[0]]["step"]) == 5 and int(optimizer.state[late[0]]["step"]) == 0
    before = [p.detach().clone() for p in late]
    train(optimizer, first + late, range(5, 7))
    assert int(optimizer.state[first[0]]["step"]) == 7 and int(optimizer.state[late[0]]["step"]) == 2
    assert not any(torch.equal(p, b) for p, b in zip(late, before, strict=True))
    torch.testing.assert_close(
        optimizer.posterior_variance()[3], torch.full((3, 4), 1 / 4.0).double(), rtol=1e-3, atol=0
    )


def test_named_parameters_and_schedulers_work() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = IVON(model.named_parameters(), 0.1, ess=100.0, h0=1.0, generator=seeded())
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=4)
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            with optimizer.sampled():
                backward(model(torch.ones(1, 3)).sum())
            optimizer.step()
            optimizer.zero_grad()
            rates.append(optimizer.param_groups[0]["lr"])
            scheduler.step()
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0)


# 7. State


def test_the_state_passes_through_safetensors(tmp_path: Path) -> None:
    """safetensors refuses tensors that share memory: the snapshot's do not, though the state's do."""
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    params = mixed()
    optimizer = IVON(params, 0.1, ess=10.0, h0=1.0, generator=seeded())
    train(optimizer, params, range(2))
    state = optimizer.state_dict()
    flat = {f"{i}.{k}": v for i, entry in state["state"].items() for k, v in entry.items()}
    safetensors.save_file(flat, tmp_path / "state.safetensors")
    back = safetensors.load_file(tmp_path / "state.safetensors")
    assert all(same(back[name], value) for name, value in flat.items())


def through_tensors(state: dict[str, Any]) -> dict[str, Any]:
    """As a safetensors checkpoint does it: flat named tensors, nothing shared, groups as plain data."""
    flat = {f"{i}.{k}": v.clone() for i, entry in state["state"].items() for k, v in entry.items()}
    assert all(isinstance(v, Tensor) for v in flat.values())
    rebuilt: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        index, key = name.split(".")
        rebuilt.setdefault(int(index), {})[key] = value
    return {"state": rebuilt, "param_groups": copy.deepcopy(state["param_groups"])}


@pytest.mark.parametrize("passage", [copy.deepcopy, through_tensors])
@pytest.mark.parametrize("make", [parameters, lambda: parameters(torch.bfloat16), mixed])
def test_a_resumed_run_is_bit_identical(
    make: Callable[[], list[Parameter]], passage: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    options: dict[str, Any] = {"lr": 0.1, "ess": 20.0, "h0": 0.5, "beta2": 0.9, "weight_decay": 0.01}
    whole, rng = make(), seeded(4)
    groups: list[dict[str, Any]] = [{"params": whole[:1], "lr": 0.05}, {"params": whole[1:]}]
    optimizer = IVON(groups, generator=rng, **options)
    train(optimizer, whole, range(7))
    state, values = passage(optimizer.state_dict()), [p.detach().clone() for p in whole]
    rng_state = rng.get_state()
    train(optimizer, whole, range(7, 15))

    resumed, rng = make(), seeded(99)
    for p, value in zip(resumed, values, strict=True):
        p.data.copy_(value)
    groups = [{"params": resumed[:1], "lr": 9.0}, {"params": resumed[1:]}]
    again = IVON(groups, 9.0, ess=9.0, h0=9.0, generator=rng)
    train(again, resumed, range(2))  # a used optimizer may load, too
    for p, value in zip(resumed, values, strict=True):
        p.data.copy_(value)
    again.load_state_dict(state)
    rng.set_state(rng_state)
    train(again, resumed, range(7, 15))
    assert again.param_groups[0]["lr"] == 0.05 and again.param_groups[0]["ess"] == 20.0
    for p, q in zip(whole, resumed, strict=True):
        assert same(p.detach(), q.detach())
        for key in ("step", "momentum", "hessian"):
            assert same(optimizer.state[p][key], again.state[q][key])
        assert again.state[q]["hessian"].dtype == torch.promote_types(p.dtype, torch.float32)
        assert int(again.state[q]["step"]) == 15


def test_state_dict_is_a_snapshot_in_torchs_layout() -> None:
    params = parameters()
    optimizer = IVON(params, 0.1, ess=10.0, h0=1.0, generator=seeded())
    state = optimizer.state_dict()
    train(optimizer, params, range(2))
    assert sorted(state["state"]) == [0, 1, 2]
    assert all(set(entry) == {"step", "momentum", "hessian"} for entry in state["state"].values())
    assert int(state["state"][0]["step"]) == 0 and bool((state["state"][0]["hessian"] == 1).all())
    assert state["state"][0]["hessian"].shape == (3, 4)


def test_load_state_dict_forgets_pending_draws_and_heeds_hooks() -> None:
    w = Parameter(torch.zeros(2))
    optimizer = IVON([w], 0.1, ess=10.0, h0=1.0)
    state = optimizer.state_dict()
    other = copy.deepcopy(state)
    other["state"][0]["hessian"].fill_(7.0)
    with optimizer.sampled():
        backward(w.sum())
    handle = optimizer.register_load_state_dict_pre_hook(lambda _, given: other)
    optimizer.load_state_dict(state)
    handle.remove()
    assert optimizer.state[w]["hessian"].tolist() == [7.0, 7.0]
    with pytest.raises(RuntimeError, match="found no draw"):
        optimizer.step()


def bad_states() -> Iterator[tuple[str, Callable[[dict[str, Any]], object]]]:
    yield "no ess", lambda s: s["param_groups"][0].pop("ess")
    yield "lacks step", lambda s: s["state"].pop(1)
    yield "lacks step", lambda s: s["state"][0].pop("momentum")
    yield "has shape", lambda s: s["state"][0].update(momentum=torch.zeros(2))
    yield "step counters", lambda s: s["state"][0].update(step=torch.tensor(8))
    yield "ess must be", lambda s: s["param_groups"][0].update(ess=-1.0)
    yield "different number of parameter groups", lambda s: s["param_groups"].append(s["param_groups"][0])
    yield "doesn't match the size", lambda s: s["param_groups"][0]["params"].pop()


@pytest.mark.parametrize(("message", "spoil"), list(bad_states()))
def test_a_state_that_does_not_fit_is_refused_whole(message: str, spoil: Callable[[dict[str, Any]], object]) -> None:
    params = parameters()
    optimizer = IVON(params, 0.1, ess=10.0, h0=1.0)
    state = optimizer.state_dict()
    state["state"][2]["hessian"].fill_(5.0)
    spoil(state)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    assert float(optimizer.state[params[2]]["hessian"]) == 1.0
    train(optimizer, params, range(2))


# 8. Errors and order of calls


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("lr", -0.1),
        ("lr", math.inf),
        ("lr", math.nan),
        ("lr", torch.tensor(0.1)),
        ("ess", 0.0),
        ("ess", math.inf),
        ("ess", "1e6"),
        ("h0", 0.0),
        ("h0", True),
        ("beta1", 1.0),
        ("beta2", 1.1),
        ("beta2", -0.1),
        ("weight_decay", -1e-9),
        ("clip_radius", 0.0),
        ("clip_radius", math.nan),
        ("rescale_lr", 1),
        ("generator", 3),
    ],
)
def test_arguments_out_of_range_are_named(argument: str, value: Any) -> None:
    good: dict[str, Any] = {"lr": 0.1, "ess": 10.0, "h0": 1.0}
    with pytest.raises(ValueError, match=f"^{argument} must be .*"):
        IVON(parameters(), **{**good, argument: value})
    if argument != "generator":
        with pytest.raises(ValueError, match=f"^{argument} must be .*"):
            IVON([{"params": parameters(), argument: value}], **good)


def test_parameters_that_cannot_be_trained_are_refused() -> None:
    good = Parameter(torch.zeros(2))
    options: dict[str, Any] = {"lr": 0.1, "ess": 10.0, "h0": 1.0}
    complex_one = Parameter(torch.zeros(2, dtype=torch.complex64))
    for bad, message in (
        (
            [Parameter(torch.zeros(2), requires_grad=False)],
            "Parameter 0 of group 1 does not require gradients",
        ),
        ([complex_one], "complex64, but IVON needs real floating-point"),
    ):
        optimizer = IVON([good], **options)
        with pytest.raises(ValueError, match=message):
            optimizer.add_param_group({"params": bad})
        assert len(optimizer.param_groups) == 1
        train(optimizer, [good], range(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="the same parameter twice"):
            IVON([good, good], **options)


def test_step_without_a_draw_is_refused() -> None:
    params = parameters()
    optimizer = IVON(params, 0.1, ess=10.0, h0=1.0)
    message = "step\\(\\) found no draw with gradients: run the forward and backward pass inside"
    with pytest.raises(RuntimeError, match=message):
        optimizer.step()
    backward(loss_of(params, 0))
    with pytest.raises(RuntimeError, match=message):
        optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad(), optimizer.sampled():  # an evaluation is no draw to learn from
        loss_of(params, 0)
    with pytest.raises(RuntimeError, match=message):
        optimizer.step()
    train(optimizer, params, range(1))
    with pytest.raises(RuntimeError, match=message):  # the draw is used up
        optimizer.step()
    with optimizer.sampled():
        backward(loss_of(params, 0))
    for p in params:
        p.grad = None
    with pytest.raises(RuntimeError, match=message):
        optimizer.step()


def test_calls_inside_a_draw_are_refused_and_do_no_harm() -> None:
    params = parameters()
    optimizer = IVON(params, 0.1, ess=10.0, h0=1.0)
    before, state = [p.detach().clone() for p in params], optimizer.state_dict()

    def nested() -> None:
        with optimizer.sampled():
            raise AssertionError("not reached")

    calls: list[tuple[str, Callable[[], object]]] = [
        ("sampled", nested),
        ("step", optimizer.step),
        ("state_dict", optimizer.state_dict),
        ("load_state_dict", lambda: optimizer.load_state_dict(state)),
        ("add_param_group", lambda: optimizer.add_param_group({"params": parameters()})),
    ]
    for name, call in calls:
        with optimizer.sampled():
            backward(loss_of(params, 0))
            with pytest.raises(RuntimeError, match=f"^{name}\\(\\) was called inside .* leave the context first"):
                call()
        assert all(same(p.detach(), b) for p, b in zip(params, before, strict=True))
    with pytest.raises(RuntimeError, match="call step\\(\\) or zero_grad\\(\\) first"):
        optimizer.add_param_group({"params": parameters()})
    optimizer.step()


def test_other_refusals() -> None:
    w = Parameter(torch.zeros(3))
    optimizer = IVON([w], 0.1, ess=10.0, h0=1.0)
    for copier in (copy.deepcopy, copy.copy):
        with pytest.raises(TypeError, match="use state_dict\\(\\) and load_state_dict\\(\\)"):
            copier(optimizer)
    w.data = w.data.double()
    with (
        pytest.raises(
            RuntimeError,
            match=r"torch.float64 on cpu but was torch.float32 on cpu .* then make the optimizer",
        ),
        optimizer.sampled(),
    ):
        pass
    table = torch.nn.Embedding(4, 2, sparse=True)
    before = table.weight.detach().clone()
    optimizer = IVON(table.parameters(), 0.1, ess=10.0, h0=1.0)
    with pytest.raises(RuntimeError, match="sparse gradients: use dense"), optimizer.sampled():
        backward(table(torch.tensor([1])).sum())
    assert torch.equal(table.weight, before) and table.weight.grad is None


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad_inside_clears_this_draw_and_outside_forgets_all(set_to_none: bool) -> None:
    w = Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = Fed([w], 0.1, ess=4.0, h0=1.0, beta1=0.0, beta2=0.5)
    coefficient = torch.tensor([1.0, 2.0])
    optimizer.feed(torch.ones(2), torch.full((2,), -3.0), torch.full((2,), 2.0))
    with optimizer.sampled():
        backward((w * 100).sum())
        optimizer.zero_grad(set_to_none)
        backward((w * coefficient).sum())
    with optimizer.sampled():
        backward((w * 100).sum())
        optimizer.zero_grad(set_to_none)
    assert w.grad is not None and w.grad.tolist() == [1.0, 2.0]
    optimizer.zero_grad(set_to_none)
    with pytest.raises(RuntimeError, match="found no draw"):
        optimizer.step()
    with optimizer.sampled():
        backward((w * coefficient).sum())
    optimizer.step()
    hhat = torch.tensor([4.0, 8.0], dtype=torch.float64)  # gradient * 2 eps / sqrt(ess h) * (ess h) = gradient * 4
    torch.testing.assert_close(optimizer.state[w]["hessian"], 0.5 + 0.5 * hhat + 0.25 * (1 - hhat) ** 2 / 2)


def test_gradients_cleared_by_hand_between_draws_are_forgotten() -> None:
    """model.zero_grad() does not reach the optimizer; the products follow p.grad all the same."""
    for count in (1, 2):
        w = Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = Fed([w], 0.1, ess=4.0, h0=1.0, beta2=0.5)
        optimizer.feed(*[torch.ones(1), torch.full((1,), 3.0)][:count], torch.full((1,), 2.0))
        for sign in (1, -1)[:count]:  # two gradients that cancel leave p.grad = 0, but not their products
            with optimizer.sampled():
                backward((sign * 5 * w).sum())
        w.grad = None
        with optimizer.sampled():
            backward(w.sum())
        optimizer.step()
        assert float(optimizer.state[w]["hessian"]) == 0.5 + 0.5 * 4 + 0.25 * 9 / 2


def test_a_parameter_without_gradient_counts_as_zero() -> None:
    used, unused = (
        Parameter(torch.ones(2, dtype=torch.float64)),
        Parameter(torch.ones(2, dtype=torch.float64)),
    )
    optimizer = IVON([used, unused], 0.1, ess=4.0, h0=1.0, beta2=0.5, weight_decay=0.5, generator=seeded())
    for _ in range(2):
        with optimizer.sampled():
            backward(used.sum())
    assert unused.grad is None
    optimizer.step()
    assert optimizer.state[unused]["momentum"].tolist() == [0.0, 0.0]
    h = 0.5 + 0.25 / 3
    torch.testing.assert_close(optimizer.state[unused]["hessian"], torch.full((2,), h).double())
    torch.testing.assert_close(unused.detach(), torch.full((2,), 1 - 0.1 * 0.5 / (h + 0.5)).double())


def test_closure() -> None:
    """step(closure) is zero_grad, one draw, step; a closure that clears the gradients itself does no harm."""
    one, two = parameters(), parameters()
    plain = IVON(one, 0.1, ess=10.0, h0=1.0, generator=seeded())
    closed = IVON(two, 0.1, ess=10.0, h0=1.0, generator=seeded())
    train(plain, one, range(3))
    for step in range(3):

        def closure(step: int = step) -> Tensor:
            closed.zero_grad()
            loss = loss_of(two, step)
            backward(loss)
            return loss

        with torch.no_grad():
            assert float(closed.step(closure)) > 0
    assert all(same(p.detach(), q.detach()) for p, q in zip(one, two, strict=True))


def test_h_stays_positive_under_wild_gradients() -> None:
    w = Parameter(torch.zeros(50))
    optimizer = IVON([w], 1e-6, ess=1.0, h0=1e-3, beta2=0.5, generator=seeded())
    for step in range(50):
        with optimizer.sampled():
            backward((w * 1e3 * torch.randn(50, generator=seeded(step))).sum())
        optimizer.step()
        optimizer.zero_grad()
        assert float(optimizer.state[w]["hessian"].min()) > 0


def test_blocks_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation is elementwise, so that cutting the flat buffers changes nothing but the time."""
    found = []
    for size in (2**15, 7):
        monkeypatch.setattr(bucket, "BLOCK", size)
        params = parameters(torch.float32)
        optimizer = IVON(params, 0.1, ess=30.0, h0=0.5, weight_decay=0.1, clip_radius=0.3, generator=seeded(2))
        for step in range(5):
            with optimizer.sampled():
                backward(loss_of(params, step))
            optimizer.step()
            optimizer.zero_grad()
        found.append([*(p.detach() for p in params), *optimizer.posterior_variance(), optimizer.buckets[0].clipped])
    assert all(torch.equal(whole, cut) for whole, cut in zip(*found, strict=True))
    assert found[0][-1] > 0
