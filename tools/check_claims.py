"""Measure, on the embedded base, what the rivals' equations imply. The numbers are in docs/methods.md.

    python tools/check_claims.py [blob] [scalabl] [ivon] [predictive] [--task notes_four] [--seeds 3] [--steps 1000]

blob        the sd at the end of each published cycle of KL weights, against the sd of LoRA's initial A and the prior's
scalabl     sd and s under the KL of the authors' code and under the correct one, and the NLL of the draws
ivon        how far h moves in 10 000 steps with the published beta2 (for longer: 10 minutes)
predictive  draws of the weights against flipout's noise, for one posterior of BLoB and of TFB each
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without an installation, too

from bench.data.splits import DataSource
from bench.metrics import mixture
from bench.plan.base_model import choose_model
from bench.plan.runs import families, plan_run
from bench.run.runner import Runner
from bench.specs import RunSpec
from bench.store.store import Store

LR = 6e-4  # AdamW's on this base, by `bench tune` (bench/grids/demo.tuned.toml)
PARTS: dict[str, Callable[[Bench], None]] = {}


class Bench:
    """Runs on the embedded base under the protocol ``clean``, in a store that is thrown away."""

    def __init__(self, folder: Path, task: str, seeds: int, steps: int) -> None:
        self.store, self.task, self.seeds, self.steps = Store(folder), task, range(1, seeds + 1), steps

    def run(self, method: str, seed: int, **settings: Any) -> RunSpec:
        """Plan and compute one run."""
        model, _ = choose_model({})
        merged = {"steps": self.steps, "adamw": {"lr": LR}, **settings}
        run = plan_run(method, self.task, seed, settings=merged, model=model, source=DataSource(), protocol="clean")
        (family,) = families([run])
        Runner(store=self.store).run(family)
        return run

    def facts(self, run: RunSpec) -> dict[str, Any]:
        """What the fit of a run noted."""
        found: dict[str, Any] = self.store.fit_facts(run.fit)["diagnostics"]
        return found

    def metric(self, run: RunSpec, name: str) -> float:
        """A metric on the reported split."""
        return float(self.store.record(run).metrics[name])


def part(function: Callable[[Bench], None]) -> Callable[[Bench], None]:
    """Register a measurement under its name."""
    PARTS[function.__name__] = function
    return function


def row(*cells: object) -> None:
    """Print a row of a Markdown table."""
    print(
        "| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells) + " |", flush=True
    )


def head(*cells: str) -> None:
    """Print the head of a Markdown table."""
    print()
    row(*cells)
    row(*["---"] * len(cells))


def over_seeds(values: list[float]) -> str:
    """Mean, and standard error of the mean."""
    spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} +- {spread:.4f}"


@part
def blob(bench: Bench) -> None:
    """The sd at the end of each cycle, under both KL weights."""
    settings = {"lr": LR, "eps": 1e-6}
    for kl in ("cycle", "elbo"):
        run = bench.run("blob", 1, lora={"dropout": 0.0}, blob={**settings, "kl": kl})
        a = [value for name, value in bench.store.posterior(run.fit).mean.items() if "lora_A" in name]
        initial = statistics.mean(1 / math.sqrt(3 * value.shape[1]) for value in a)
        head(f"kl = {kl}: step", "sd 5 %", "sd median", "sd 95 %", "median / sd of the initial A", "median / prior sd")
        for each in bench.facts(run)["sd_by_cycle"]:
            median = each["sd_median"]
            row(each["step"], each["sd_p05"], median, each["sd_p95"], median / initial, median / 0.2)
    head("BLoB", "NLL", "ECE", "accuracy")
    for kl in ("cycle", "elbo"):
        for name in ("blob_mean", "blob"):
            runs = [bench.run(name, s, lora={"dropout": 0.0}, blob={**settings, "kl": kl}) for s in bench.seeds]
            cells = [over_seeds([bench.metric(run, metric) for run in runs]) for metric in ("nll", "ece", "accuracy")]
            row(f"{name}, {kl}", *cells)


@part
def scalabl(bench: Bench) -> None:
    """The spread that both KLs lead to."""
    head(
        "kl", "sd at the end of the cycles (seed 1)", "median sd", "median sd / s", "NLL of the mean", "NLL of 10 draws"
    )
    for kl, weight in (("as_published", "cycle"), ("reverse", "cycle"), ("reverse", "elbo")):
        options = {"lr": LR, "kl": kl, "kl_weight": weight}
        runs = [bench.run("scalabl", seed, lora={"dropout": 0.0}, scalabl=options) for seed in bench.seeds]
        means = [bench.run("scalabl", s, lora={"dropout": 0.0}, scalabl={**options, "tau": 0}) for s in bench.seeds]
        facts = [bench.facts(run) for run in runs]
        medians = ", ".join(f"{each['sd_median']:.3g}" for each in facts[0]["sd_by_cycle"][:5])
        ends = [statistics.mean(f[name] for f in facts) for name in ("sd_median", "sd_over_s_median")]
        nll = [over_seeds([bench.metric(run, "nll") for run in each]) for each in (means, runs)]
        row(f"{kl}, {weight}", medians, *ends, *nll)


@part
def ivon(bench: Bench) -> None:
    """How far h moves with the published beta2, where the estimates weigh 1 - exp(-steps (1 - beta2)) at most."""
    head("settings", "steps", "weight of the estimates", "h / h0: min", "mean", "max", "outside [0.9, 1.1]")
    published = {"lr": 0.03, "ess": 1e6, "h0": 1e-3}
    tuned = {"lr": 0.5, "ess": 3e4, "h0": 1e-2}  # bench/grids/demo.tuned.toml
    for label, options, steps in (
        ("tuned", tuned, 1000),
        ("tuned", tuned, 10_000),
        ("published", published, 10_000),
    ):
        facts = bench.facts(bench.run("ivon", 1, steps=steps, ivon=options))
        drift = [float(facts[f"h_drift_{name}"]) for name in ("min", "mean", "max")]
        row(label, steps, 1 - math.exp(-steps * 1e-5), *drift, float(facts["h_moved_share"]))


@part
def predictive(bench: Bench) -> None:
    """One posterior, predicted with fixed draws of the weights and with noise of each token's own."""
    head("posterior", "predictive", "NLL", "ECE", "accuracy", "disagreement of draws (nats)", "distance from the mean")
    plain: dict[str, Any] = {"lora": {"dropout": 0.0}, "blob": {"lr": LR}}
    for name, base, options in (
        ("blob", "blob_mean", {}),
        ("tfb", "adamw", {}),
        ("tfb_blob", "blob_mean", {}),
    ):
        centre = [bench.run(base, seed, **plain) for seed in bench.seeds]
        row(name, "mean", *_metrics(bench, centre), 0.0, 0.0)
        for kind in ("weights", "flipout"):
            used = {**plain, name: {**plain.get(name, {}), **options, "predictive": kind}}
            runs = [bench.run(name, seed, **used) for seed in bench.seeds]
            spread = [_spread(bench, run) for run in runs]
            moved = [_distance(bench, run, at) for run, at in zip(runs, centre, strict=True)]
            row(name, kind, *_metrics(bench, runs), statistics.mean(spread), statistics.mean(moved))


def _metrics(bench: Bench, runs: list[RunSpec]) -> list[str]:
    return [over_seeds([bench.metric(run, name) for run in runs]) for name in ("nll", "ece", "accuracy")]


def _log_probs(bench: Bench, run: RunSpec) -> Any:
    return bench.store.predictions(run)["log_probs"].astype(np.float64)


def _spread(bench: Bench, run: RunSpec) -> float:
    """Mutual information of answer and draw, a mean over examples."""
    log_probs = _log_probs(bench, run)
    mean = mixture(log_probs)
    within = -(np.exp(log_probs) * log_probs).sum(-1).mean(0)
    return float((-(np.exp(mean) * mean).sum(-1) - within).mean())


def _distance(bench: Bench, run: RunSpec, centre: RunSpec) -> float:
    """Total variation between the averaged probabilities and those of the mean, a mean over examples."""
    one, other = (np.exp(mixture(_log_probs(bench, each))) for each in (run, centre))
    return float(np.abs(one - other).sum(-1).mean() / 2)


def main() -> None:
    """Run the parts that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--task", default="notes_four")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1 ... N where a mean is shown")
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="claims-") as folder:
        bench = Bench(Path(folder), options.task, options.seeds, options.steps)
        for name in options.parts or PARTS:
            PARTS[name](bench)


if __name__ == "__main__":
    main()
