"""Protocols: which split is reported, which may be used for tuning, and what is set aside for that.

``paper``  as published: the validation split is reported, nothing is set aside.
``clean``  the labelled test split is reported where there is one, and validation is free for tuning; where there is
           none, validation is reported and 10 % of the training split is set aside for tuning.

Nothing is ever tuned on the split that is reported.
"""

from __future__ import annotations

import dataclasses

from bench.errors import near_miss
from bench.task import Task

HOLDOUT = "holdout"  # the name of the part of train that is set aside
CLEAN_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Splits:
    """A task's splits under a protocol: the reported one, the one for tuning ("" if none), the share set aside."""

    reported: str
    tuning: str
    holdout: float


def _paper(task: Task) -> Splits:
    return Splits("validation" if "validation" in task.rows else "test", "", 0.0)


def _clean(task: Task) -> Splits:
    if "test" in task.rows and "validation" in task.rows:
        return Splits("test", "validation", 0.0)
    return Splits("test" if "test" in task.rows else "validation", HOLDOUT, CLEAN_SHARE)


PROTOCOLS = {"paper": _paper, "clean": _clean}


def splits_for(protocol: str, task: Task) -> Splits:
    """The splits of a task under a protocol.

    Raises:
        LookupError: no such protocol, or a task without a labelled split to report.
    """
    if protocol not in PROTOCOLS:
        raise LookupError(f"There is no protocol '{protocol}'.{near_miss(protocol, PROTOCOLS)}")
    splits = PROTOCOLS[protocol](task)
    if splits.reported not in task.rows:
        raise LookupError(f"Task '{task.name}' has no labelled validation or test split to report.")
    return splits
