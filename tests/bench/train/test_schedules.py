"""Schedules: factors on the peak learning rate, one for all parameter groups or one for each."""

from __future__ import annotations

import pytest
import torch

from bench.train.schedules import Rates, constant, linear_to_zero, warm_up


def groups() -> list[dict[str, object]]:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    return torch.optim.SGD([{"params": [weights[0]], "lr": 0.5}, {"params": [weights[1]], "lr": 2.0}]).param_groups


def test_one_schedule_scales_every_groups_own_peak() -> None:
    found = groups()
    rates = Rates(found, linear_to_zero)
    for progress in (0.25, 0.75):  # from the peak each time, not from the last rate
        rates.set(found, progress)
        assert [group["lr"] for group in found] == [0.5 * (1 - progress), 2 * (1 - progress)]


def test_each_group_may_have_its_schedule() -> None:
    found = groups()
    Rates(found, [constant, linear_to_zero]).set(found, 0.5)
    assert [group["lr"] for group in found] == [0.5, 1.0]


def test_schedules_that_do_not_match_the_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="1 schedules for 2 parameter groups"):
        Rates(groups(), [constant])


def test_a_warm_up_rises_to_the_peak_and_falls_to_zero() -> None:
    factors = [warm_up(0.2)(t / 10) for t in range(11)]
    assert factors == pytest.approx([0, 0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0])
    assert [warm_up(0)(t / 4) for t in range(4)] == [1, 0.75, 0.5, 0.25]
