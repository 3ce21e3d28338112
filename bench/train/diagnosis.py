"""Whose fault a number is that is not finite: the base's own, or that of the training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from bench.data.batches import Batch
from bench.errors import ModelNotUsable
from bench.model.choice_model import ChoiceModel
from bench.specs import FitSpec, seed_for


@torch.no_grad()
def blame_base(model: ChoiceModel, fit: FitSpec, answers: Sequence[str], batches: Iterable[Batch]) -> None:
    """Do nothing, unless the base itself is at fault: its logits with fresh adapters (B = 0).

    The adapters are fresh afterwards, too.

    Raises:
        ModelNotUsable: on some of the prompts they are not finite.
    """
    bad = total = 0
    model.prepare(answers, seed_for(fit, "init"))
    with model.dropout(False):
        for batch in batches:
            finite = model.logits(batch).isfinite().all(-1)
            total += len(batch)
            bad += len(batch) - int(finite.sum())
    if not bad:
        return
    if model.spec.dtype == "float16":
        fix = "its activations exceed float16: use --dtype bfloat16 or float32"
    else:
        fix = "its weights are damaged, or it cannot read these prompts: use another model"
    raise ModelNotUsable(
        f"The logits of {model.name} itself, before any training (B = 0), are not finite in {model.spec.dtype} on "
        f"{bad} of {total} prompts; {fix}. Neither the method nor its learning rate is at fault."
    )


def diverged(loss: float, step: int, fit: FitSpec) -> FloatingPointError:
    """The error of a training whose mean loss is not finite at a step, numbered from 1, though the base's logits are.

    The loss of step 1 was computed before any step was taken.
    """
    if step == 1:
        fix = f"the settings of {fit.method} make it so. It will not help to lower the learning rate."
    else:
        fix = "lower the learning rate, or set clip_norm."
    return FloatingPointError(f"The training loss is {loss} near step {step} of {fit.method} on {fit.data.task}: {fix}")
