"""Flip single bits in the checkpoint of a stopped training, continue it, and compare the posterior with one left alone.

    python tools/drill_bitflips.py [--flips 60] [--seed 0] [--steps 30] [--methods adamw ivon]

A checkpoint may be continued or refused; either way the posterior must have the same bytes. Prints how many flips were
refused, how many were continued, and how many gave another posterior. Exits with 1 if any did.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import random
import shutil
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without an installation, too

from bench.data.splits import DataSource
from bench.plan.grid import choose_model
from bench.plan.runs import families, plan_run
from bench.process.progress import Progress
from bench.process.stop import Stopped
from bench.run.runner import Runner
from bench.specs import Family
from bench.store.store import Store

METHODS = ("adamw", "ivon")  # an optimizer of torch and one with its own state


class StopAt(Progress):
    """Asks the training to stop after a number of steps."""

    def __init__(self, steps: int) -> None:
        self.steps, self.reason = steps, ""

    def step(self, done: int) -> None:
        if done >= self.steps:
            self.reason = "drill"


def planned(method: str, steps: int) -> Family:
    """A small family of one method."""
    model, _ = choose_model({})
    run = plan_run(method, "notes_two", 1, settings={"steps": steps}, model=model, source=DataSource())
    return families([run])[0]


def posterior(runs: Path, family: Family) -> bytes:
    """Continue the family in a store; its posterior's bytes."""
    Runner(store=Store(runs)).run(family)
    return (Store(runs).folder(family.root) / "posterior.safetensors").read_bytes()


def drill(method: str, flips: int, steps: int, moments: random.Random, scratch: Path) -> tuple[int, int, int]:
    """(refused, continued, other posteriors) of ``flips`` flips in the checkpoint of one method."""
    family, stopped = planned(method, steps), scratch / f"{method}-stopped"
    whole = posterior(scratch / f"{method}-whole", family)
    progress = StopAt(steps // 2)
    with contextlib.suppress(Stopped):
        Runner(store=Store(stopped), stop=lambda: progress.reason).run(family, progress)
    refused = continued = other = 0
    for _ in range(flips):
        runs = scratch / "flipped"
        shutil.copytree(stopped, runs)
        file = Store(runs).work(family.root) / "checkpoint.safetensors"
        content = bytearray(file.read_bytes())
        bit = moments.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
        other += posterior(runs, family) != whole
        attempts = Store(runs).fit_facts(family.root)["attempts"]
        began = attempts[-1]["from_step"] == 0
        refused, continued = refused + began, continued + (not began)
        shutil.rmtree(runs)
    return refused, continued, other


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--flips", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    options = parser.parse_args()
    logging.getLogger("bench").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    moments, wrong = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as scratch:
        for method in options.methods:
            share = options.flips // len(options.methods)
            refused, continued, other = drill(method, share, options.steps, moments, Path(scratch))
            wrong += other
            print(
                f"{method}: {share} flips, {refused} refused, {continued} continued, {other} other posteriors",
                flush=True,
            )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
