"""Learning-rate schedules: a factor on the peak learning rate as a function of the progress t/T in [0, 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Schedule = Callable[[float], float]


def linear_to_zero(progress: float) -> float:
    """1 - t/T (PROTOCOL: paper; no warm-up)."""
    return 1.0 - progress


def constant(progress: float) -> float:
    """1 throughout."""
    return 1.0


def warm_up(share: float) -> Schedule:
    """From 0 linearly to 1 over the first ``share`` of the steps, then linearly to 0 at the end."""

    def factor(progress: float) -> float:
        return progress / share if progress < share else (1 - progress) / (1 - share)

    return factor


class Rates:
    """Sets each parameter group's learning rate to its peak times its schedule.

    Args:
        groups: the optimizer's parameter groups; their ``lr`` is the peak.
        schedule: one schedule for all groups, or one per group in their order.

    Raises:
        ValueError: the number of schedules is not the number of groups.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], schedule: Schedule | Sequence[Schedule]) -> None:
        self._peaks = [group["lr"] for group in groups]
        self._schedules = [schedule] * len(groups) if callable(schedule) else list(schedule)
        if len(self._schedules) != len(groups):
            raise ValueError(
                f"There are {len(self._schedules)} schedules for {len(groups)} parameter groups: pass one schedule, "
                "or one for each group."
            )

    def set(self, groups: Sequence[dict[str, Any]], progress: float) -> None:
        """Set the learning rates of ``groups`` at ``progress`` = t/T."""
        for group, peak, schedule in zip(groups, self._peaks, self._schedules, strict=True):
            group["lr"] = peak * schedule(progress)
