"""Figures on an IVON training, and sentences on what looks wrong in them (PROTOCOL 4: its settings do not transfer)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from methods.ivon.optimizer import IVON
from methods.ivon.state import step_size

# The authors choose h0 such that the mean posterior variance moves little in the first steps; at a factor of
# 2 the noise that the weights were first trained under is clearly not the one that prediction will draw.
VARIANCE_DRIFT_FACTOR = 2.0
# Above this share the size of the preconditioned step plays no part: all but 1 coordinate in 100 move by lr *
# clip_radius.
CLIPPED_SHARE = 0.99
# The published radius, at which IVON is known to move like sign momentum (docs/protocol.md): no news in every run.
PUBLISHED_RADIUS = 1e-3
# 8 and 11 significant bits: an update under about 1/512 (bfloat16) or 1/4096 (float16) of a weight rounds to
# nothing.
LOW_PRECISION = (torch.bfloat16, torch.float16)


@torch.no_grad()
def diagnostics(optimizer: IVON) -> dict[str, float]:
    """Figures over all coordinates of all groups. (Reading them waits for the device; `step` never does.)

    steps: the largest step counter; mean_variance: mean of v; mean_variance_ratio: that over its value at
        h = h0;
    mean_h, min_h; min_precision: smallest h + delta; h_drift_mean, _min, _max: h / h0; h_moved_share: share of
    coordinates with h / h0 outside [0.9, 1.1]; clipped_share: share of coordinates clipped in the last step (0
    before it).
    """
    total = 0
    sums = dict.fromkeys(("variance", "initial", "h", "drift", "moved", "clipped"), 0.0)
    lows: list[Tensor] = []
    drifts_low: list[Tensor] = []
    drifts_high: list[Tensor] = []
    precisions: list[Tensor] = []
    for bucket in optimizer.buckets:
        h, n = bucket.hessian, bucket.hessian.numel()
        if n == 0:
            continue
        group = optimizer.param_groups[bucket.group]
        delta, ess, h0 = float(group["weight_decay"]), float(group["ess"]), float(group["h0"])
        total += n
        h_sum = float(h.sum(dtype=torch.float64))
        sums["variance"] += float((h + delta).reciprocal_().sum(dtype=torch.float64)) / ess
        sums["initial"] += n / (ess * (h0 + delta))
        sums["h"] += h_sum
        sums["drift"] += h_sum / h0
        sums["moved"] += float(((h / h0 - 1).abs() > 0.1).sum())
        sums["clipped"] += float(bucket.clipped)
        low, high = (x.double().cpu() for x in torch.aminmax(h))
        lows.append(low)
        precisions.append(low + delta)
        drifts_low.append(low / h0)
        drifts_high.append(high / h0)
    if total == 0:
        raise RuntimeError("diagnostics() has nothing to report: the optimizer holds no coordinates.")
    return {
        "steps": float(max(int(bucket.step) for bucket in optimizer.buckets)),
        "mean_variance": sums["variance"] / total,
        "mean_variance_ratio": sums["variance"] / sums["initial"],
        "mean_h": sums["h"] / total,
        "min_h": float(torch.stack(lows).min()),
        "min_precision": float(torch.stack(precisions).min()),
        "h_drift_mean": sums["drift"] / total,
        "h_drift_min": float(torch.stack(drifts_low).min()),
        "h_drift_max": float(torch.stack(drifts_high).max()),
        "h_moved_share": sums["moved"] / total,
        "clipped_share": sums["clipped"] / total,
    }


def warnings(optimizer: IVON) -> list[str]:
    """Sentences on what looks wrong in `diagnostics`, often none. Thresholds: the module's constants."""
    d = diagnostics(optimizer)
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
    sizes = [
        step_size(group) * float(group["clip_radius"])
        for group in optimizer.param_groups
        if group["clip_radius"] not in (PUBLISHED_RADIUS, math.inf)
    ]
    if sizes and d["clipped_share"] > CLIPPED_SHARE:
        found.append(
            f"{100 * d['clipped_share']:.1f} % of the coordinates were clipped in the last step: IVON "
            f"moves like sign momentum with steps of lr * clip_radius (at most {max(sizes):.3g} now). If "
            "that is not meant, raise clip_radius and lower lr."
        )
    low = sorted(
        {str(bucket.dtype).removeprefix("torch.") for bucket in optimizer.buckets if bucket.dtype in LOW_PRECISION}
    )
    if low:
        found.append(
            f"The mean of some parameters is kept in {' and '.join(low)}, where small updates round to "
            "nothing: hold trainable parameters in float32."
        )
    return found
