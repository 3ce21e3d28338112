"""Seeds of the global streams, and the GPU that they are used on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.run import worker
from bench.run.execution import Execution
from bench.store.store import Store
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


@pytest.mark.parametrize(("name", "current"), [("cuda:1", ["cuda:1"]), ("cuda", []), ("cpu", [])])
def test_a_worker_s_gpu_is_the_current_one(
    name: str, current: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA graphs are recorded on the current one."""
    chosen: list[str] = []
    monkeypatch.setattr(worker, "choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(str(device)))
    worker.make_runner(Store(tmp_path), Execution(device=name))
    assert chosen == current
