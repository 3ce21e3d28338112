"""IVON, a variational optimizer: it learns a diagonal Gaussian over the parameters at about the cost of Adam.

Shen et al. 2024, "Variational Learning is Effective for Large Deep Networks", arXiv 2402.17641, Algorithm 1.
State per coordinate: mean m, Hessian estimate h (init h0), momentum g (init 0). The posterior is N(m, diag v)
with v = 1 / (ess (h + delta)). Step t, from the draws theta_s made since the last step:

    theta_s = m + sqrt(v) eps_s,  eps_s ~ N(0, I)
    ghat    = sum_s gradient at theta_s           (additive, as p.grad is: the caller scales the losses)
    hhat    = sum_s gradient at theta_s * (theta_s - m) / v
    g <- beta1 g + (1 - beta1) ghat
    h <- h + u + u^2 / (2 (h + delta))            with u = (1 - beta2) (hhat - h); keeps h + delta positive
    m <- m - lr clip((g / (1 - beta1^t) + delta m) / (h + delta), -xi, xi)

(The line for h is the paper's beta2 h + (1 - beta2) hhat + (1 - beta2)^2 (h - hhat)^2 / (2 (h + delta)), with
the terms collected.) Outside of a draw the parameters hold m. One training step is:

    with optimizer.sampled():
        loss(batch).backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)  # optional: ghat and hhat both follow
    optimizer.step()
    optimizer.zero_grad()

Large elementwise work runs on one flat buffer per (group, device, dtype), not on each of the many small LoRA
factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

# The authors choose h0 such that the mean posterior variance moves little in the first steps; at a factor of
# 2 the noise that the weights were first trained under is clearly not the one that prediction will draw.
VARIANCE_DRIFT_FACTOR = 2.0
# Above this share the size of the preconditioned step plays no part: all but 1 coordinate in 100 move by lr *
# clip_radius.
CLIPPED_SHARE = 0.99
# 8 and 11 significant bits: an update under about 1/512 (bfloat16) or 1/4096 (float16) of a weight rounds to
# nothing.
LOW_PRECISION = (torch.bfloat16, torch.float16)

HYPER = ("lr", "ess", "h0", "beta1", "beta2", "weight_decay", "clip_radius", "rescale_lr")


@dataclass(eq=False)
class _Bucket:
    """The parameters of one group that share device and dtype, and their state as flat buffers."""

    group: int  # index into optimizer.param_groups; load_state_dict replaces the dictionaries themselves
    params: list[Tensor]
    device: torch.device
    dtype: torch.dtype
    momentum: Tensor
    hessian: Tensor
    step: Tensor  # int64, on the CPU
    clipped: Tensor  # number of coordinates clipped in the last step, on the bucket's device
    noise: Tensor | None = None  # theta - m before rounding to dtype, while exactly one draw is pending
    product: Tensor | None = None  # sum_s g_s (theta_s - m), while several are
    at_exit: Tensor | None = None  # p.grad as the last of several draws left it

    def pieces(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat buffer in the shapes of the parameters."""
        parts = flat.split_with_sizes([p.numel() for p in self.params])
        return [part.view(p.shape) for part, p in zip(parts, self.params, strict=True)]

    def means(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.params])

    def flat_grad(self, grads: list[Tensor | None]) -> Tensor:
        """Gradients (one per parameter) as one flat buffer in the state's dtype; None counts as zero."""
        zero = self.momentum.new_zeros(1)
        parts = [
            zero.expand(p.numel()) if g is None else g.reshape(-1) for p, g in zip(self.params, grads, strict=True)
        ]
        return torch.cat(parts).to(self.momentum.dtype)


class IVON(torch.optim.Optimizer):
    """Improved Variational Online Newton (module docstring: the update rule and the training step).

    Args (all but `params` and `generator` may differ between parameter groups):
        params: tensors, (name, tensor) pairs or group dictionaries, as for any torch optimizer. Every tensor
            must be real floating point and require gradients. Groups may mix devices and dtypes. State is
            float32, or float64 for float64 parameters; the mean itself is kept in the parameter's dtype, so
            train LoRA factors in float32.
        lr: learning rate on the preconditioned step, >= 0, without unit (1 is a Newton step). The paper: 0.03
            to 0 linearly for LoRA.
        ess: effective sample size lambda, > 0, a number of examples: how many the mean loss is taken to stand
            for. v = 1 / (ess (h + delta)), so a larger ess is a narrower posterior; the number of training
            examples gives the untempered one.
        h0: initial Hessian, > 0, in units of mean loss per parameter squared. The initial sd is
            1 / sqrt(ess (h0 + delta)).
        beta1: momentum decay, in [0, 1).
        beta2: Hessian decay, in [0, 1]. n steps move h by a share of about n (1 - beta2); at 1 h stays at h0.
        weight_decay: delta >= 0, the prior's precision divided by ess: the prior is N(0, 1 / (ess delta)).
        clip_radius: xi > 0: every coordinate of the preconditioned step is clipped to [-xi, xi], so that none
            moves by more than lr * xi in a step. inf: no clipping.
        rescale_lr: multiply lr by (h0 + delta), which makes lr comparable with SGD's. The LoRA paper's runs
            do not.
        generator: source of the noise. None: the default generator of each bucket's device. A generator on
            another device than the parameters' draws there and the noise is moved, so a CPU generator gives
            the same draws on any device. Its state is the caller's to save with a checkpoint: state_dict()
            does not hold it.

    Gradients. Each draw *adds* to p.grad. Gradient accumulation is either several backward passes within one
    draw or a new draw for each micro-batch; scale each loss by 1 / (draws * micro-batches). Backward must run
    inside the context: leaving it changes the parameters in place. `zero_grad` inside a draw clears that draw
    only, outside it forgets all pending draws. A parameter without a gradient (an unused expert, a module
    that this batch skipped) counts as one with zero gradient: it was perturbed like the rest and the loss did
    not depend on it. A draw in which no parameter at all got a gradient (an evaluation) is not counted. A
    gradient that was in p.grad before the draw, or is added after it, enters ghat and is weighted with the
    noise like the draw's own, which adds no bias to hhat.

    Edits of p.grad between the last backward and `step` (clipping, unscaling) act on ghat and hhat alike:
    with one draw hhat = p.grad * (theta - m) / v, whatever the edit; with several draws the edit is read
    elementwise as the factor p.grad / (p.grad as the last draw left it) on sum_s g_s (theta_s - m) / v. Where
    the latter gradient is zero the factor is 1. With several draws, therefore, only edits that rescale (clip
    by norm or value, unscale, mask) have a meaning. A skipped step (GradScaler on inf) needs nothing: the
    next zero_grad forgets the draws.

    Raises:
        ValueError: an argument out of its range, a parameter that cannot be trained, or a state that does not
            fit.
        RuntimeError: a call in the wrong order (step without a draw, nested draws, a checkpoint within a
            draw, ...), sparse gradients, or parameters that were moved after the optimizer was made.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]],
        lr: float,
        *,
        ess: float,
        h0: float,
        beta1: float = 0.9,
        beta2: float = 1 - 1e-5,
        weight_decay: float = 0.0,
        clip_radius: float = math.inf,
        rescale_lr: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        if generator is not None and not isinstance(generator, torch.Generator):
            raise ValueError(f"generator must be a torch.Generator or None, got {type(generator).__name__}.")
        self._buckets: list[_Bucket] = []
        self._draws = 0  # pending: made since the last step or zero_grad
        self._drawing = False
        self._generator = generator
        defaults = {
            "lr": lr,
            "ess": ess,
            "h0": h0,
            "beta1": beta1,
            "beta2": beta2,
            "weight_decay": weight_decay,
            "clip_radius": clip_radius,
            "rescale_lr": rescale_lr,
        }
        super().__init__(params, defaults)

    # Groups and state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; it starts at its own step 0 with h = h0. Not between a draw and its step."""
        self._refuse_in_draw("add_param_group()")
        if self._draws:
            raise RuntimeError(
                "add_param_group() was called between a draw and its step, and the new parameters were not "
                "part of the draw: call step() or zero_grad() first."
            )
        check_hyper({**self.defaults, **param_group})
        super().add_param_group(param_group)
        index = len(self.param_groups) - 1
        try:
            buckets = self._new_buckets(index)
        except ValueError:
            del self.param_groups[index]
            raise
        self._buckets.extend(buckets)
        for bucket in buckets:
            self._publish(bucket)

    def _new_buckets(self, index: int) -> list[_Bucket]:
        group = self.param_groups[index]
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
        buckets = []
        for (device, dtype), params in by_kind.items():
            state_dtype = torch.promote_types(dtype, torch.float32)
            n = sum(p.numel() for p in params)
            buckets.append(
                _Bucket(
                    group=index,
                    params=params,
                    device=device,
                    dtype=dtype,
                    momentum=torch.zeros(n, device=device, dtype=state_dtype),
                    hessian=torch.full((n,), float(group["h0"]), device=device, dtype=state_dtype),
                    step=torch.zeros((), dtype=torch.int64),
                    clipped=torch.zeros((), device=device, dtype=torch.int64),
                )
            )
        return buckets

    def _publish(self, bucket: _Bucket) -> None:
        """Show the flat buffers as torch's per-parameter state: views, so nothing is ever copied back."""
        momenta, hessians = bucket.pieces(bucket.momentum), bucket.pieces(bucket.hessian)
        for p, momentum, hessian in zip(bucket.params, momenta, hessians, strict=True):
            self.state[p] = {"step": bucket.step, "momentum": momentum, "hessian": hessian}

    def state_dict(self) -> dict[str, Any]:
        """A snapshot in torch's layout: per parameter "step" (int64), "momentum", "hessian" (state's dtype).

        As for every torch optimizer, gradients are not part of it, and neither are draws that wait for a
        step.
        """
        self._refuse_in_draw("state_dict()")
        snapshot: dict[str, Any] = super().state_dict()
        snapshot["state"] = {
            index: {key: value.clone() for key, value in entry.items()} for index, entry in snapshot["state"].items()
        }
        return snapshot

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a `state_dict`; pending draws are forgotten. State keeps its own dtype."""
        self._refuse_in_draw("load_state_dict()")
        loaded: list[dict[str, Any]] = []
        # Hooks of the caller may replace the dictionary; this one runs after them and sees what is loaded.
        handle = self.register_load_state_dict_pre_hook(lambda _, given: loaded.append(self._fitting(given)))
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        source: dict[Tensor, dict[str, Any]] = {}
        for group, saved in zip(self.param_groups, loaded[0]["param_groups"], strict=True):
            for p, index in zip(group["params"], saved["params"], strict=True):
                source[p] = loaded[0]["state"][index]
        for bucket in self._buckets:
            momenta, hessians = bucket.pieces(bucket.momentum), bucket.pieces(bucket.hessian)
            for p, momentum, hessian in zip(bucket.params, momenta, hessians, strict=True):
                momentum.copy_(source[p]["momentum"])
                hessian.copy_(source[p]["hessian"])
            bucket.step.fill_(int(source[bucket.params[0]]["step"]))
            bucket.clipped.zero_()
            self._publish(bucket)
        self._forget()

    def _fitting(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The given state dictionary, checked before anything changes. (torch checks the groups' sizes.)"""
        fix = "load a state_dict() that IVON wrote for the same parameters in the same groups and order"
        for number, (group, saved) in enumerate(zip(self.param_groups, state_dict["param_groups"], strict=False)):
            missing = [key for key in HYPER if key not in saved]
            if missing:
                raise ValueError(f"The saved group {number} has no {', '.join(missing)}: {fix}.")
            check_hyper(saved)
            steps: dict[tuple[torch.device, torch.dtype], int] = {}
            for p, index in zip(group["params"], saved["params"], strict=False):
                entry = state_dict["state"].get(index, {})
                if any(key not in entry for key in ("step", "momentum", "hessian")):
                    raise ValueError(f"The saved state of parameter {index} lacks step, momentum or hessian: {fix}.")
                if entry["momentum"].shape != p.shape or entry["hessian"].shape != p.shape:
                    raise ValueError(
                        f"The saved state of parameter {index} has shape {tuple(entry['momentum'].shape)}, "
                        f"the parameter {tuple(p.shape)}: {fix}."
                    )
                step = int(entry["step"])
                if steps.setdefault((p.device, p.dtype), step) != step:
                    raise ValueError(f"The saved step counters within group {number} differ: {fix}.")
        return state_dict

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            "IVON cannot be copied or pickled, since the copy's parameters would belong to no model: make a "
            "new IVON on the copied model and use state_dict() and load_state_dict()."
        )

    # Draws

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """Inside, the parameters are one draw from the posterior; on leaving they are m, bit for bit.

        Run forward and backward inside. When an exception passes, m and the gradients found at entry are put
        back and the draw contributes nothing. Do not edit, move or replace the parameters inside: leaving
        undoes it.
        """
        self._refuse_in_draw("sampled()")
        self._check_placement()
        params = [p for bucket in self._buckets for p in bucket.params]
        with torch.no_grad():
            means = [bucket.means() for bucket in self._buckets]
            noises = [self._scaled_noise(bucket) for bucket in self._buckets]
        entry = [p.grad for p in params]
        self._drawing = True
        completed = False
        try:
            with torch.no_grad():
                for p in params:
                    p.grad = None
                for bucket, noise in zip(self._buckets, noises, strict=True):
                    torch._foreach_add_(bucket.params, bucket.pieces(noise))
                torch.clear_autocast_cache()  # autocast keeps low-precision copies of the weights it has seen
            yield
            completed = True
        finally:
            drawn = [p.grad for p in params]
            with torch.no_grad():
                for bucket, mean in zip(self._buckets, means, strict=True):
                    torch._foreach_copy_(bucket.params, bucket.pieces(mean))
                torch.clear_autocast_cache()
            for p, grad in zip(params, entry, strict=True):
                p.grad = grad
            self._drawing = False
            if completed:
                self._collect(noises, drawn)

    def _noise(self, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """n standard normal numbers on `device`; override it to choose the draws."""
        if self._generator is None:
            return torch.randn(n, device=device, dtype=dtype)
        source = self._generator
        return torch.randn(n, generator=source, device=source.device, dtype=dtype).to(device)

    def _scaled_noise(self, bucket: _Bucket) -> Tensor:
        group = self.param_groups[bucket.group]
        noise = self._noise(bucket.hessian.numel(), bucket.device, bucket.hessian.dtype)
        precision = (bucket.hessian + group["weight_decay"]).mul_(group["ess"])
        scaled: Tensor = precision.rsqrt_().mul_(noise)
        return scaled

    @torch.no_grad()
    def _collect(self, noises: list[Tensor], drawn: list[Tensor | None]) -> None:
        """Add a finished draw to p.grad (now as found at entry) and to what `step` needs for hhat."""
        if all(g is None for g in drawn):
            return
        if any(g is not None and g.layout != torch.strided for g in drawn):
            raise RuntimeError("IVON does not support sparse gradients: use dense ones (Embedding(..., sparse=False)).")
        start = 0
        for bucket, noise in zip(self._buckets, noises, strict=True):
            grads = drawn[start : start + len(bucket.params)]
            start += len(bucket.params)
            if self._draws == 0:
                bucket.noise = noise
            else:
                product = self._product(bucket, bucket.flat_grad([p.grad for p in bucket.params]))
                bucket.product = product.addcmul_(bucket.flat_grad(grads), noise)
                bucket.noise = None
            sums: list[Tensor] = []
            terms: list[Tensor] = []
            for p, g in zip(bucket.params, grads, strict=True):
                if p.grad is None:
                    p.grad = g
                elif g is not None:
                    sums.append(p.grad)
                    terms.append(g)
            if sums:
                torch._foreach_add_(sums, terms)
            if self._draws:
                bucket.at_exit = bucket.flat_grad([p.grad for p in bucket.params])
        self._draws += 1

    def _product(self, bucket: _Bucket, grad: Tensor) -> Tensor:
        """sum_s g_s (theta_s - m) over pending draws, with the edits that led to `grad`, p.grad as it is.

        Uses up the noise: the caller replaces or forgets it.
        """
        if bucket.noise is not None:
            return bucket.noise.mul_(grad)
        assert bucket.product is not None and bucket.at_exit is not None
        factor = torch.where(bucket.at_exit == 0, torch.ones_like(grad), grad / bucket.at_exit)
        product = factor.mul_(bucket.product)
        for p, piece in zip(bucket.params, bucket.pieces(product), strict=True):
            if p.grad is None:  # set to None by hand, as by model.zero_grad(): its draws are forgotten
                piece.zero_()
        return product

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients. Inside a draw: those of this draw. Outside: all, and pending draws too."""
        if not self._drawing:
            self._forget()
        super().zero_grad(set_to_none)

    def _forget(self) -> None:
        self._draws = 0
        for bucket in self._buckets:
            bucket.noise = bucket.product = bucket.at_exit = None

    # The step

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update g, h and m from the pending draws, which are thereby used up.

        With a closure (it computes the loss, calls backward and returns the loss), the gradients are cleared
        first, the closure runs once in one draw with gradients enabled, and its result is returned.
        """
        self._refuse_in_draw("step()")
        result = None
        if closure is not None:
            self.zero_grad()
            with self.sampled(), torch.enable_grad():
                result = closure()
        if self._draws == 0 or all(p.grad is None for bucket in self._buckets for p in bucket.params):
            raise RuntimeError(
                "step() found no draw with gradients: run the forward and backward pass inside "
                "'with optimizer.sampled():' first, and call zero_grad() after step(), not before it."
            )
        self._check_placement()
        for bucket in self._buckets:
            self._update(bucket)
        self._forget()
        return result

    @torch.no_grad()
    def _update(self, bucket: _Bucket) -> None:
        group = self.param_groups[bucket.group]
        delta, radius = float(group["weight_decay"]), float(group["clip_radius"])
        rate = 1 - group["beta2"]
        momentum, hessian = bucket.momentum, bucket.hessian
        grad = bucket.flat_grad([p.grad for p in bucket.params])
        bucket.step += 1

        curvature = hessian + delta
        change = self._product(bucket, grad).mul_(curvature)  # hhat / ess
        change.mul_(rate * group["ess"]).sub_(hessian, alpha=rate)  # u
        hessian.add_(change).addcdiv_(change.square_(), curvature, value=0.5)
        torch.add(hessian, delta, out=curvature)

        momentum.lerp_(grad, 1 - group["beta1"])
        update = torch.div(momentum, 1 - group["beta1"] ** int(bucket.step), out=grad)
        if delta:
            update.add_(bucket.means(), alpha=delta)
        update.div_(curvature)
        if radius < math.inf:
            bucket.clipped = torch.count_nonzero(torch.abs(update, out=change).gt_(radius))
            update.clamp_(-radius, radius)
        else:
            bucket.clipped.zero_()
        torch._foreach_add_(bucket.params, bucket.pieces(update), alpha=-_step_size(group))

    # What was learned

    @torch.no_grad()
    def posterior_variance(self) -> list[Tensor]:
        """v = 1 / (ess (h + delta)): a new tensor per parameter, in its shape and the order of the groups."""
        return [
            (self.state[p]["hessian"] + group["weight_decay"]).mul_(group["ess"]).reciprocal_()
            for group in self.param_groups
            for p in group["params"]
        ]

    @torch.no_grad()
    def diagnostics(self) -> dict[str, float]:
        """Figures over all coordinates of all groups. (Reading them waits for the device; `step` never does.)

        steps: the largest step counter; mean_variance: mean of v; mean_variance_ratio: that over its value at
            h = h0;
        mean_h, min_h; min_precision: smallest h + delta; h_drift_mean, _min, _max: h / h0; clipped_share:
        share of coordinates clipped in the last step (0 before it).
        """
        total = 0
        sums = dict.fromkeys(("variance", "initial", "h", "drift", "clipped"), 0.0)
        lows: list[Tensor] = []
        drifts_low: list[Tensor] = []
        drifts_high: list[Tensor] = []
        precisions: list[Tensor] = []
        for bucket in self._buckets:
            h, n = bucket.hessian, bucket.hessian.numel()
            if n == 0:
                continue
            group = self.param_groups[bucket.group]
            delta, ess, h0 = float(group["weight_decay"]), float(group["ess"]), float(group["h0"])
            total += n
            h_sum = float(h.sum(dtype=torch.float64))
            sums["variance"] += float((h + delta).reciprocal_().sum(dtype=torch.float64)) / ess
            sums["initial"] += n / (ess * (h0 + delta))
            sums["h"] += h_sum
            sums["drift"] += h_sum / h0
            sums["clipped"] += float(bucket.clipped)
            low, high = (x.double().cpu() for x in torch.aminmax(h))
            lows.append(low)
            precisions.append(low + delta)
            drifts_low.append(low / h0)
            drifts_high.append(high / h0)
        if total == 0:
            raise RuntimeError("diagnostics() has nothing to report: the optimizer holds no coordinates.")
        return {
            "steps": float(max(int(bucket.step) for bucket in self._buckets)),
            "mean_variance": sums["variance"] / total,
            "mean_variance_ratio": sums["variance"] / sums["initial"],
            "mean_h": sums["h"] / total,
            "min_h": float(torch.stack(lows).min()),
            "min_precision": float(torch.stack(precisions).min()),
            "h_drift_mean": sums["drift"] / total,
            "h_drift_min": float(torch.stack(drifts_low).min()),
            "h_drift_max": float(torch.stack(drifts_high).max()),
            "clipped_share": sums["clipped"] / total,
        }

    def warnings(self) -> list[str]:
        """Sentences on what looks wrong in `diagnostics`, often none. Thresholds: the module's constants."""
        d = self.diagnostics()
        found = []
        finite = all(math.isfinite(d[key]) for key in ("mean_h", "min_h", "h_drift_max"))
        if not finite or d["min_precision"] <= 0:
            found.append(
                f"h is not finite and positive everywhere (mean {d['mean_h']:.3g}, smallest h + weight_decay "
                f"{d['min_precision']:.3g}): the posterior is not defined. Non-finite gradients reached "
                "step(), or the training diverged; lower lr or raise ess."
            )
        elif not 1 / VARIANCE_DRIFT_FACTOR <= d["mean_variance_ratio"] <= VARIANCE_DRIFT_FACTOR:
            higher = d["mean_variance_ratio"] < 1
            found.append(
                f"The mean posterior variance is {d['mean_variance_ratio']:.3g} times its start, beyond a "
                f"factor of {VARIANCE_DRIFT_FACTOR:g}: h0 does not suit this problem; "
                f"{'raise' if higher else 'lower'} it (mean h is {d['mean_h']:.3g})."
            )
        if d["clipped_share"] > CLIPPED_SHARE:
            sizes = [_step_size(g) * float(g["clip_radius"]) for g in self.param_groups if g["clip_radius"] < math.inf]
            found.append(
                f"{100 * d['clipped_share']:.1f} % of the coordinates were clipped in the last step: IVON "
                f"moves like sign momentum with steps of lr * clip_radius (at most {max(sizes):.3g} now). If "
                "that is not meant, raise clip_radius and lower lr."
            )
        low = sorted(
            {str(bucket.dtype).removeprefix("torch.") for bucket in self._buckets if bucket.dtype in LOW_PRECISION}
        )
        if low:
            found.append(
                f"The mean of some parameters is kept in {' and '.join(low)}, where small updates round to "
                "nothing: hold trainable parameters in float32."
            )
        return found

    # Guards

    def _refuse_in_draw(self, what: str) -> None:
        if self._drawing:
            raise RuntimeError(
                f"{what} was called inside 'with optimizer.sampled():', where the parameters are a draw and "
                "not the mean: leave the context first."
            )

    def _check_placement(self) -> None:
        for bucket in self._buckets:
            for p in bucket.params:
                if p.device != bucket.device or p.dtype != bucket.dtype:
                    raise RuntimeError(
                        f"A parameter is now {p.dtype} on {p.device} but was {bucket.dtype} on "
                        f"{bucket.device} when the optimizer was made: move or convert the model first, then "
                        "make the optimizer."
                    )


def _step_size(group: dict[str, Any]) -> float:
    """The lr that multiplies the clipped step, after `rescale_lr`."""
    return float(group["lr"]) * (float(group["h0"]) + float(group["weight_decay"]) if group["rescale_lr"] else 1.0)


def check_hyper(group: dict[str, Any]) -> None:
    """Refuse values out of range, with a sentence that says what to give instead."""
    for name in HYPER:
        value = group[name]
        if name == "rescale_lr":
            if not isinstance(value, bool):
                raise ValueError(f"rescale_lr must be True or False, got {value!r}.")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} must be a Python number, got {type(value).__name__}: convert it with float().")
    ranges = (
        ("lr", 0 <= group["lr"] < math.inf, "finite and at least 0, for example 0.03"),
        (
            "ess",
            0 < group["ess"] < math.inf,
            "finite and above 0, for example the number of training examples",
        ),
        ("h0", 0 < group["h0"] < math.inf, "finite and above 0, for example 1e-3"),
        ("beta1", 0 <= group["beta1"] < 1, "at least 0 and below 1, for example 0.9"),
        ("beta2", 0 <= group["beta2"] <= 1, "between 0 and 1, for example 1 - 1e-5"),
        ("weight_decay", 0 <= group["weight_decay"] < math.inf, "finite and at least 0; 0 switches it off"),
        ("clip_radius", group["clip_radius"] > 0, "above 0; math.inf switches clipping off"),
    )
    for name, good, wanted in ranges:
        if not good:
            raise ValueError(f"{name} must be {wanted}, got {group[name]!r}.")
