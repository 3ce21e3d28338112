"""MAP: the prior in the loss, and its minimum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import plan
from toy import Linear, Rows, flat

from methods.adamw import AdamW, Map


def test_the_gradient_is_that_of_the_loss_and_of_the_log_prior_over_n(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = Linear(40, 6, white=False, prior_sd=0.3)
    job = toy.job(tmp_path, steps=1)
    taken: dict[str, Any] = {}
    monkeypatch.setattr(job, "train", lambda optimizer, **options: taken.update(options))
    Map(prior_sd=0.3).fit(job)
    with torch.no_grad():
        for parameter in job.model.params.values():
            parameter.normal_()
    params, batch = list(job.model.params.values()), Rows(range(4))
    whole = torch.autograd.grad(taken["loss"](batch), params)
    data = torch.autograd.grad(job.loss(batch), params)
    for w, d, p in zip(whole, data, params, strict=True):
        torch.testing.assert_close(w - d, p.detach() / (0.3**2 * 40), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pieces", [1, 4])
def test_finds_the_exact_posterior_mean_of_a_conjugate_model(tmp_path: Path, pieces: int) -> None:
    toy = Linear(40, 6, white=False, prior_sd=0.3)
    plain = Linear(40, 6, white=False, prior_sd=1e6)
    job = toy.job(tmp_path, steps=600, batch_size=40, micro_batches=pieces)
    job.encode = lambda: Whole(40)  # type: ignore[assignment, return-value]
    found = flat(Map(lr=0.02, prior_sd=0.3).fit(job).mean)
    assert (found - toy.mean).norm() < 1e-3 * toy.mean.norm()
    assert (plain.mean - toy.mean).norm() > 0.1 * toy.mean.norm()  # the prior matters here


class Whole(Rows):
    """Every batch is all rows."""

    def __new__(cls, n: int) -> Whole:
        return super().__new__(cls, range(n))

    def shuffled(self, batch_size: int, seed: int, first_step: int = 0) -> Any:
        while True:
            yield Rows(self)


def test_the_prior_is_part_of_the_key() -> None:
    assert plan("map", map={"prior_sd": 0.5}).fit.options["prior_sd"] == 0.5


@pytest.mark.parametrize(
    ("cls", "values"),
    [(Map, {"prior_sd": 0}), (AdamW, {"lr": -1}), (AdamW, {"beta2": 1}), (AdamW, {"weight_decay": -0.1})],
)
def test_options_out_of_range_are_named(cls: type, values: dict[str, float]) -> None:
    (name,) = values
    with pytest.raises(ValueError, match=f"{cls.name}.{name} is "):  # type: ignore[attr-defined]
        cls.make(values)
