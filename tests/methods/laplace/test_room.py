"""Factors that do not fit are refused at the first batch, with a rank that does."""

from __future__ import annotations

import re

import pytest
import torch
from curvature_oracle import CPU, summed

from bench.data.batches import Encoded
from bench.model.choice_model import ChoiceModel
from methods.laplace import room
from methods.laplace.room import check_room, free_bytes

LLAMA_2_7B = [4096] * 32 + [8] * 64 + [8] * 64 + [4096] * 64  # inputs of A (q and v share), of B; outputs of A, of B


def test_the_sentence_names_a_rank_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "free_bytes", lambda device: 8 * 2**30)
    with pytest.raises(ValueError, match=r"take 12 GiB with .* and cpu has 8 GiB: set factor_rank = \d+") as found:
        check_room(LLAMA_2_7B, 0, 4, CPU)
    rank = int(re.findall(r"factor_rank = (\d+)", str(found.value))[0])
    assert rank == 1024  # 2 * 4 * 96 * 4096 * 1024 = 3 GiB, and 2048 would take 6
    assert "takes 3 GiB" in str(found.value)
    check_room(LLAMA_2_7B, rank, 4, CPU)
    monkeypatch.setattr(room, "free_bytes", lambda device: 13 * 2**30)
    check_room(LLAMA_2_7B, 0, 4, CPU)


def test_a_rank_that_is_too_large_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "free_bytes", lambda device: 1000)
    with pytest.raises(ValueError, match="set factor_rank = 1,"):
        check_room([100], 2, 4, CPU)


def test_a_fit_is_refused_before_anything_is_summed(
    model: ChoiceModel, data: Encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "free_bytes", lambda device: 64)
    with pytest.raises(ValueError, match="set factor_rank = 1, which takes"):
        summed(model, [data.batch([0])], data, "expand")


def test_a_machine_knows_its_memory_and_an_unknown_device_is_let_through() -> None:
    assert 2**28 < free_bytes(CPU) < 2**50
    assert free_bytes(torch.device("meta")) == float("inf")
