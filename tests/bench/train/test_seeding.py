"""Seeds of the global streams."""

from __future__ import annotations

import pytest
import torch

from bench.train.seeding import seed_global


def test_the_cpu_and_every_gpu_are_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--device cuda:1`, or a base over several GPUs: torch.cuda.manual_seed would seed the current one alone."""
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    before = torch.get_rng_state()
    try:
        seed_global(7, torch.device("cuda:1"))
        drawn = torch.rand(3)
        seed_global(7, torch.device("cpu"))
        assert seeded == [7] and torch.equal(drawn, torch.rand(3))
    finally:
        torch.set_rng_state(before)
