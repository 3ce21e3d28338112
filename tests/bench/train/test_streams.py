"""Where a method's noise comes from: the CPU generator, or one on the model's device that follows the spec as well."""

from __future__ import annotations

import functools
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from support import compute
from support import plan_few as plan

from bench.method import FitJob

REAL = torch.Generator


class Elsewhere:
    """Stands in for a GPU: gives each job a generator of its own, and notes the first number of each step's stream."""

    def __init__(self) -> None:
        self.first: list[float] = []

    def generator(self, job: FitJob) -> torch.Generator:
        first = self.first

        class Noted(torch.Generator):
            def manual_seed(self, seed: int) -> torch.Generator:
                super().manual_seed(seed)
                first.append(float(torch.rand((), generator=torch.Generator().manual_seed(seed))))
                return self

        return Noted()


@pytest.mark.parametrize("method", ["ivon", "sgld"])
def test_noise_of_the_device_follows_the_spec(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fitted(name: str) -> bytes:
        compute(plan(method, steps=4), tmp_path / name)
        (file,) = (tmp_path / name).glob("fits/*/posterior.safetensors")
        return file.read_bytes()

    usual = fitted("usual")
    elsewhere = Elsewhere()
    patched = functools.cached_property(elsewhere.generator)
    patched.__set_name__(FitJob, "device_generator")
    monkeypatch.setattr(FitJob, "device_generator", patched)
    first, second = fitted("first"), fitted("second")
    assert first == second != usual
    seen = elsewhere.first
    assert seen[:4] == seen[len(seen) // 2 :][:4] and len(set(seen[:4])) == 4  # a stream for each step, the same again


def test_on_a_cpu_there_is_one_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    same: list[bool] = []
    seed = FitJob._seed

    def noted(job: FitJob, step: int) -> None:
        seed(job, step)
        same.append(job.device_generator is job.generator)

    monkeypatch.setattr(FitJob, "_seed", noted)
    compute(plan("adamw", steps=2), tmp_path)
    assert same and all(same)


def test_the_generator_of_a_device_follows_the_spec_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's is another than the CPU's; a type of device stands in for it."""
    made = []
    monkeypatch.setattr(FitJob, "model", types.SimpleNamespace(device=types.SimpleNamespace(type="far")))
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": REAL())
    for seed in (1, 2, 1):
        unused: Any = None  # nothing is loaded, encoded or saved
        job = FitJob(plan("adamw", seed=seed).fit, load=unused, encode=unused, checkpointing=unused)
        made.append(torch.rand(3, generator=job.device_generator).tolist())
    assert made[0] == made[2] != made[1]
