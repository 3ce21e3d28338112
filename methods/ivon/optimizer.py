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
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor

from methods.ivon.bucket import Bucket, Flat, new_buckets
from methods.ivon.state import check_hyper, check_state


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
        beta2: Hessian decay, in [0, 1]. n steps give the estimates a weight of about n (1 - beta2); at 1 h
            stays at h0.
        weight_decay: delta >= 0, the prior's precision divided by ess: the prior is N(0, 1 / (ess delta)).
        clip_radius: xi > 0: every coordinate of the preconditioned step is clipped to [-xi, xi], so that none
            moves by more than lr * xi in a step. inf: no clipping.
        rescale_lr: multiply lr by (h0 + delta), which makes lr comparable with SGD's. The LoRA paper's runs
            do not.
        shrink_mean: whether delta also pulls the mean to 0, as a prior that is centred there does.
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
        shrink_mean: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        if generator is not None and not isinstance(generator, torch.Generator):
            raise ValueError(f"generator must be a torch.Generator or None, got {type(generator).__name__}.")
        self.buckets: list[Bucket] = []
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
            "shrink_mean": shrink_mean,
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
            buckets = new_buckets(index, self.param_groups[index])
        except ValueError:
            del self.param_groups[index]
            raise
        self.buckets.extend(buckets)
        for bucket in buckets:
            self._publish(bucket)

    def _publish(self, bucket: Bucket) -> None:
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
        def check(_: torch.optim.Optimizer, given: dict[str, Any]) -> None:
            check_state(self.param_groups, given)
            loaded.append(given)

        handle = self.register_load_state_dict_pre_hook(check)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        source: dict[Tensor, dict[str, Any]] = {}
        for group, saved in zip(self.param_groups, loaded[0]["param_groups"], strict=True):
            for p, index in zip(group["params"], saved["params"], strict=True):
                source[p] = loaded[0]["state"][index]
        for bucket in self.buckets:
            saved = [source[p] for p in bucket.params]
            bucket.load([one["momentum"] for one in saved], [one["hessian"] for one in saved], int(saved[0]["step"]))
            self._publish(bucket)
        self._draws = 0

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
        params = [p for bucket in self.buckets for p in bucket.params]
        entry = [p.grad for p in params]
        self._drawing = True
        completed = False
        try:
            with torch.no_grad():
                for p in params:
                    p.grad = None
                noises = [bucket.draw(self.param_groups[bucket.group], self._fill) for bucket in self.buckets]
                torch.clear_autocast_cache()  # autocast keeps low-precision copies of the weights it has seen
            yield
            completed = True
        finally:
            drawn = [p.grad for p in params]
            with torch.no_grad():
                for bucket in self.buckets:
                    bucket.restore()
                torch.clear_autocast_cache()
            for p, grad in zip(params, entry, strict=True):
                p.grad = grad
            self._drawing = False
            if completed:
                self._collect(noises, drawn)

    def _fill(self, noise: Tensor) -> None:
        """Fill a buffer with standard normal numbers; override it to choose the draws."""
        source = self._generator
        if source is None or source.device == noise.device:
            noise.normal_(generator=source)
        else:
            noise.copy_(torch.randn(len(noise), generator=source, device=source.device, dtype=noise.dtype))

    @torch.no_grad()
    def _collect(self, noises: list[Flat], drawn: list[Tensor | None]) -> None:
        """Add a finished draw to p.grad (now as found at entry) and to what `step` needs for hhat."""
        if all(g is None for g in drawn):
            return
        if any(g is not None and g.layout != torch.strided for g in drawn):
            raise RuntimeError("IVON does not support sparse gradients: use dense ones (Embedding(..., sparse=False)).")
        grads = iter(drawn)
        for bucket, noise in zip(self.buckets, noises, strict=True):
            bucket.collect(noise, list(itertools.islice(grads, len(bucket.params))), first=self._draws == 0)
        self._draws += 1

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients. Inside a draw: those of this draw. Outside: all, and pending draws too."""
        if not self._drawing:
            self._forget()
        super().zero_grad(set_to_none)

    def _forget(self) -> None:
        self._draws = 0
        for bucket in self.buckets:
            bucket.forget()

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
        if self._draws == 0 or all(p.grad is None for bucket in self.buckets for p in bucket.params):
            raise RuntimeError(
                "step() found no draw with gradients: run the forward and backward pass inside "
                "'with optimizer.sampled():' first, and call zero_grad() after step(), not before it."
            )
        self._check_placement()
        with torch.no_grad():
            for bucket in self.buckets:
                bucket.update(self.param_groups[bucket.group])
        self._draws = 0
        return result

    # What was learned

    @torch.no_grad()
    def posterior_variance(self) -> list[Tensor]:
        """v = 1 / (ess (h + delta)): a new tensor per parameter, in its shape and the order of the groups."""
        return [
            (self.state[p]["hessian"] + group["weight_decay"]).mul_(group["ess"]).reciprocal_()
            for group in self.param_groups
            for p in group["params"]
        ]

    # Guards

    def _refuse_in_draw(self, what: str) -> None:
        if self._drawing:
            raise RuntimeError(
                f"{what} was called inside 'with optimizer.sampled():', where the parameters are a draw and "
                "not the mean: leave the context first."
            )

    def _check_placement(self) -> None:
        for bucket in self.buckets:
            for p in bucket.params:
                if p.device != bucket.device or p.dtype != bucket.dtype:
                    raise RuntimeError(
                        f"A parameter is now {p.dtype} on {p.device} but was {bucket.dtype} on "
                        f"{bucket.device} when the optimizer was made: move or convert the model first, then "
                        "make the optimizer."
                    )
