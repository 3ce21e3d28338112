"""SWA and SWAG against their formulas, step by step, and against a posterior that is known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from support import compute, result_bytes
from support import plan_few as plan
from toy import Linear, Linears, flat, of_model

from bench.plan.runs import count_fits, families
from bench.posterior import LowRankGaussian
from bench.process.progress import Progress
from bench.run.runner import Runner
from bench.store.store import Store
from bench.train.tree import load_tree, save_tree
from methods.swa import Moments, Swa


class Recorder(Progress):
    """Every step's parameters and learning rate."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, torch.Tensor] = {}
        self.model: object = None

    def step(self, done: int) -> None:
        self.seen[done] = flat(self.model.params)  # type: ignore[attr-defined]


@pytest.mark.parametrize("rank", [2, 4, 50])
def test_mean_variance_and_deviations_are_those_of_the_snapshots(tmp_path: Path, rank: int) -> None:
    recorder = Recorder()
    job = Linear(40, 6, white=False, prior_sd=1).job(tmp_path, recorder, steps=60)
    recorder.model = job.model
    found = Swa(lr=0.05, start=0.4, every=3, rank=rank).fit(job)
    assert isinstance(found, LowRankGaussian)
    snapshots = torch.stack([recorder.seen[done] for done in range(27, 61, 3)])
    mean = snapshots.mean(0)
    held = min(rank, len(snapshots))
    assert torch.equal(flat(found.location), mean.float().double())
    torch.testing.assert_close(flat(found.variance), snapshots.var(0, correction=0), rtol=1e-6, atol=1e-14)
    deviations = torch.cat([found.deviations["a"], found.deviations["b"]], 1).double()
    assert found.rank == held and deviations.shape == (held, 6)
    torch.testing.assert_close(deviations, snapshots[-held:] - mean, rtol=1e-5, atol=1e-8)
    assert job.facts["snapshots"] == 12 and job.facts["rank"] == held


def test_with_all_snapshots_held_the_low_rank_half_is_their_sample_covariance(tmp_path: Path) -> None:
    recorder = Recorder()
    job = Linear(40, 6, white=False, prior_sd=1).job(tmp_path, recorder, steps=30)
    recorder.model = job.model
    found = Swa(lr=0.05, start=0.5, every=1, rank=99).fit(job)
    assert isinstance(found, LowRankGaussian)
    d = torch.cat([found.deviations["a"], found.deviations["b"]], 1).double()
    snapshots = torch.stack([recorder.seen[done] for done in range(16, 31)])
    torch.testing.assert_close(d.T @ d / (found.rank - 1), torch.cov(snapshots.T), rtol=1e-4, atol=1e-9)


def test_the_learning_rate_follows_the_schedule_as_documented() -> None:
    swa = Swa(swa_ratio=0.25, start=0.6, anneal=0.5)
    factors = [swa.schedule(t / 10) for t in range(10)]
    assert factors == pytest.approx([1, 1, 1, 1, 0.75, 0.5, 0.25, 0.25, 0.25, 0.25])
    assert [Swa(anneal=0, start=0.5).schedule(t / 4) for t in range(4)] == [1, 1, 0.5, 0.5]
    assert Swa(start=0).schedule(0) == 0.5


@pytest.mark.parametrize(
    ("options", "steps", "expected"),
    [
        ({}, 10_000, list(range(5250, 10_001, 250))),
        ({}, 8, [5, 6, 7, 8]),
        ({"start": 0.5, "every": 2}, 9, [6, 8]),
        ({"start": 0.0, "every": 4}, 8, [4, 8]),
        ({"start": 0.7}, 10, [8, 9, 10]),
        ({"start": 0.9}, 10, [10]),
        ({"start": 0.55, "every": 1}, 100, list(range(56, 101))),  # 0.55 * 100 is more than 55 in floats
        ({"start": 0.45}, 5, [4, 5]),  # the third step begins before the constant rate does
    ],
)
def test_snapshots_are_taken_when_they_should_be(options: dict[str, float], steps: int, expected: list[int]) -> None:
    assert list(Swa(**options).snapshot_steps(steps)) == expected


@pytest.mark.parametrize("method", ["swa", "swag", "multi_swag"])
@pytest.mark.parametrize(("steps", "swa"), [(2, {}), (100, {"every": 40}), (100, {"start": 0.99}), (10, {"every": 20})])
def test_too_few_snapshots_are_refused_before_any_work(method: str, steps: int, swa: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"swa would take [01] snapshots? in \d+ steps.*raise steps, or lower"):
        plan(method, steps=steps, swa=swa)


def gaussian() -> LowRankGaussian:
    generator = torch.Generator().manual_seed(3)
    a, b = 3 * torch.randn(4, 2, generator=generator), torch.randn(4, 1, generator=generator)
    return LowRankGaussian(
        {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([[0.5]])},
        {"a": torch.tensor([0.5, 2.0]), "b": torch.tensor([[1.0]])},
        {"a": a, "b": (b + 2 * a[:, :1]).unsqueeze(2)},
    )


def covariance(posterior: LowRankGaussian, tau: float) -> torch.Tensor:
    """Of the formula."""
    d = torch.cat([posterior.deviations["a"], posterior.deviations["b"].flatten(1)], 1).double()
    return tau * (torch.diag(flat(posterior.variance)) / 2 + d.T @ d / (2 * (4 - 1)))


@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
def test_draws_have_the_covariance_of_the_formula_across_all_tensors(tau: float) -> None:
    """Exactly: a draw is the mean plus F z for the 3 + 4 standard normal numbers z that it takes, and F F^T is it."""
    posterior, count = gaussian(), 50
    noise = torch.Generator().manual_seed(0)
    z = torch.stack(
        [torch.cat([torch.randn(3, generator=noise), torch.randn(4, generator=noise)]) for _ in range(count)]
    )
    draws = torch.stack([flat(p) for p in posterior.draws(count, torch.Generator().manual_seed(0), tau)])
    offsets = draws - flat(posterior.location)
    factor = torch.linalg.lstsq(z.double(), offsets).solution
    torch.testing.assert_close(z.double() @ factor, offsets, rtol=0, atol=1e-5)
    torch.testing.assert_close(factor.T @ factor, covariance(posterior, tau), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_many_draws_have_that_mean_and_covariance() -> None:
    posterior = gaussian()
    found = posterior.draws(20_000, torch.Generator().manual_seed(0), 3.0)
    parts = zip(*((draw["a"], draw["b"]) for draw in found), strict=True)
    draws = torch.cat([torch.stack(values).flatten(1) for values in parts], 1).double()
    expected = covariance(posterior, 3.0)
    scale = expected.diagonal().sqrt()
    error = (torch.cov(draws.T) - expected) / torch.outer(scale, scale)
    assert error.abs().max() < 0.04  # four standard errors of a correlation from 20 000 draws
    assert ((draws.mean(0) - flat(posterior.location)) / scale).abs().max() < 0.03
    correlation = (expected / torch.outer(scale, scale)).fill_diagonal_(0).abs()
    assert correlation[:2, 2].max() > 0.3  # else one z2 per tensor would pass


def test_one_noise_serves_every_tau() -> None:
    one, four = (next(gaussian().draws(1, torch.Generator().manual_seed(5), tau)) for tau in (1.0, 4.0))
    torch.testing.assert_close(flat(four) - flat(gaussian().mean), 2 * (flat(one) - flat(gaussian().mean)))


def test_a_gaussian_needs_two_deviations() -> None:
    g = gaussian()
    with pytest.raises(ValueError, match="with 1 deviation has no covariance"):
        LowRankGaussian(g.location, g.variance, {name: d[:1] for name, d in g.deviations.items()})


def test_moments_survive_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    values = [{"x": 100 + 1e-3 * torch.randn(5, generator=generator)} for _ in range(9)]
    whole, first = Moments(3), Moments(3)
    for value in values:
        whole.add(value)
    for value in values[:5]:
        first.add(value)
    save_tree(first.state_dict(), tmp_path / "state.safetensors")
    second = Moments(3)
    second.load_state_dict(load_tree(tmp_path / "state.safetensors"))
    for value in values[5:]:
        second.add(value)
    for part in ("location", "variance", "deviations"):
        assert torch.equal(getattr(whole.gaussian(), part)["x"], getattr(second.gaussian(), part)["x"])
    exact = torch.stack([v["x"].double() for v in values]).var(0, correction=0)  # sd 1e-3 at 100: no cancellation
    torch.testing.assert_close(whole.gaussian().variance["x"].double(), exact, rtol=1e-6, atol=0)


def test_a_training_killed_while_collecting_continues_to_the_same_bytes(tmp_path: Path) -> None:
    run = plan("swa", swa={"start": 0.0, "every": 1, "rank": 3})
    whole = compute(run, tmp_path / "whole")

    class Killed(BaseException):
        pass

    class Kill(Progress):
        def step(self, done: int) -> None:
            if done == 6:
                raise Killed

    runner = Runner(store=Store(tmp_path / "cut"), checkpoint_seconds=0)
    with pytest.raises(Killed):
        runner.run(families([run])[0], Kill())
    again = compute(run, tmp_path / "cut", checkpoint_seconds=0)
    assert [a["from_step"] for a in again.fit_facts(run.fit)["attempts"]] == [0, 5]
    assert result_bytes(again, run) == result_bytes(whole, run)


def test_swag_at_tau_zero_is_swa_exactly_and_shares_its_fit(tmp_path: Path) -> None:
    runs = [plan("swa"), plan("swag", swag={"tau": 0}), plan("swag")]
    assert count_fits(runs) == {"swa": 1}
    (family,) = families(runs)
    Runner(store=Store(tmp_path)).run(family)
    mean, zero, draws = (Store(tmp_path).predictions(run)["log_probs"] for run in runs)
    assert mean.shape[0] == 1 and (mean == zero).all()
    assert draws.shape[0] == 10 and (draws != mean).any()


SEEDS = range(4)
N, D, BATCH = 256, 6, 4


@pytest.fixture(scope="module")
def white(tmp_path_factory: pytest.TempPathFactory) -> tuple[Linears, LowRankGaussian]:
    """Models with white inputs, one of each seed, and their posteriors from one training."""
    toys = Linears([Linear(N, D, white=True, prior_sd=1e3, seed=seed) for seed in SEEDS], [BATCH] * len(SEEDS))
    lr = 2 * math.sqrt(BATCH) / N
    swa = Swa(lr=10 * lr, swa_ratio=0.1, start=0.2, every=16, rank=100)
    found = swa.fit(toys.job(tmp_path_factory.mktemp("white"), steps=4000))
    assert isinstance(found, LowRankGaussian)
    return toys, found


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_comes_near_a_posterior_that_is_known(seed: int, white: tuple[Linears, LowRankGaussian]) -> None:
    """With white inputs, n examples and batches of B, SGD at 2 B / n is stationary at N(mean, I / n), the posterior.

    AdamW divides its gradient by its root mean square, 1 / sqrt(B): the same at lr = 2 sqrt(B) / n. (Mandt et al. 2017,
    arXiv 1704.04289. It holds for batches drawn with replacement, and no better than first order in lr.)
    """
    toys, found = white
    toy = toys.models[seed]
    deviations = torch.cat([found.deviations["a"][:, seed], found.deviations["b"][:, seed]], 1).double()
    low_rank = deviations.T @ deviations / (found.rank - 1)
    covariance = (torch.diag(of_model(found.variance, seed)) + low_rank) / 2
    sd = toy.covariance.diagonal().sqrt()
    ratio = covariance.diagonal() / toy.covariance.diagonal()
    offset = (of_model(found.mean, seed) - toy.mean) / sd
    whitened = covariance * N
    divergence = (whitened.trace() - D - torch.logdet(whitened) + offset.square().sum()) / (2 * D)
    assert offset.abs().max() < 0.4
    assert ratio.min() > 1 / 1.7 and ratio.max() < 1.7
    assert divergence < 0.06  # nats per parameter


@pytest.mark.parametrize(
    ("name", "value"),
    [("swa_ratio", 0), ("start", 1), ("start", -0.1), ("anneal", 1.5), ("every", -1), ("rank", 1), ("lr", -1)],
)
def test_options_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"swa.{name} is {value}"):
        Swa.make({name: value})
