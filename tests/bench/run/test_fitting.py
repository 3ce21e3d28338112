"""The random streams of a fit and of a prediction outside the training loop: seeded, and not one stream twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import compute, plan

from bench.method import FitJob, PredictJob, get_method
from bench.posterior import Point


def drawing(job: FitJob | PredictJob) -> dict[str, torch.Tensor]:
    """Draws from the job's generator and from torch's global stream."""
    return {"own": torch.randn(4, generator=job.generator), "global": torch.randn(4)}


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW returns what it draws before it would train."""
    monkeypatch.setattr(get_method("adamw"), "fit", lambda self, job: Point(drawing(job)))
    monkeypatch.setattr(get_method("adamw"), "predict", lambda self, job: torch.full((1, 256, 2), 0.5).log())


def fitted(folder: Path, seed: int, task: str = "notes_two") -> dict[str, torch.Tensor]:
    run = plan("adamw", task, seed)
    return dict(compute(run, folder).posterior(run.fit).mean)


@pytest.mark.parametrize("stream", ["own", "global"])
def test_what_is_drawn_before_training_follows_the_seed_and_the_task(stream: str, noise: None, tmp_path: Path) -> None:
    values = torch.stack([fitted(tmp_path / "a", seed)[stream] for seed in range(5)])
    assert (values.std(0) > 0.05).all()
    torch.manual_seed(99)  # whatever the process did before
    assert torch.equal(fitted(tmp_path / "b", 3)[stream], values[3])
    assert not torch.equal(fitted(tmp_path / "b", 3, "notes_bool")[stream], values[3])


def test_the_two_streams_of_a_fit_differ(noise: None, tmp_path: Path) -> None:
    found = fitted(tmp_path, 1)
    assert not torch.equal(found["own"], found["global"])


def test_the_two_streams_of_a_prediction_differ_and_follow_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def predict(self: Any, job: PredictJob) -> torch.Tensor:
        seen.append(drawing(job))
        return torch.full((1, len(job.examples), 2), 0.5).log()

    monkeypatch.setattr(get_method("zero_shot"), "predict", predict)
    for seed, folder in ((1, "a"), (2, "a"), (1, "b")):
        torch.manual_seed(99)
        compute(plan("zero_shot", seed=seed), tmp_path / folder)
    assert not torch.equal(seen[0]["own"], seen[0]["global"])
    for stream in ("own", "global"):
        assert torch.equal(seen[0][stream], seen[2][stream]) and not torch.equal(seen[0][stream], seen[1][stream])


def test_passes_after_the_training_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(self: Any, job: FitJob) -> Point:
        job.train(torch.optim.SGD(list(job.model.params.values()), lr=0.1))
        for _, batch in job.data.in_order(32):
            job.model.logits(batch)
        return Point(job.model.snapshot())

    monkeypatch.setattr(get_method("adamw"), "fit", fit)
    run = plan("adamw")
    facts = compute(run, tmp_path).fit_facts(run.fit)
    trained = run.fit.train.steps * run.fit.train.batch_size
    assert facts["forward_passes"] == trained + facts["examples"]["kept"]
