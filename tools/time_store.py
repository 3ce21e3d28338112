"""A result written and read through the store, against a plain file dump of the same predictions and facts.

    python -m tools.time_store [--results 30] [--examples 500] [--rounds 5] [--json FILE]

The store hashes every file, syncs it to the disk, publishes the folder in one step and checks hashes, facts and shapes
when it reads. The dump saves a safetensors and a JSON file and reads them back.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from bench.specs import DataSpec, FitSpec, ModelSpec, RunSpec, TrainSpec
from bench.store.predictions import write_predictions
from bench.store.store import Store
from tools.timing import Ratio, report, take_turns

DRAWS, ANSWERS = 10, 4


def run_of(seed: int) -> RunSpec:
    """The spec of an evaluation; another for every seed."""
    data = DataSpec(task="task", version=1, revision="r")
    fit = FitSpec(
        method="ivon", version=1, options={}, data=data, holdout=0.0, model=ModelSpec(), train=TrainSpec(), seed=seed
    )
    return RunSpec(
        fit=fit, method="ivon", version=1, options={}, data=data, split="test", protocol="clean", variant="default"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=int, default=30)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(DRAWS, options.examples, ANSWERS))
    log_probs = (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)
    labels = generator.integers(ANSWERS, size=options.examples)
    ids = tuple(f"test/{number}" for number in range(options.examples))
    facts = {"metrics": {"accuracy": 0.5, "nll": 1.2}, "warnings": ["a sentence"], "seconds": {"predict": 1.0}}
    seeds, new = itertools.count(), itertools.count()
    with tempfile.TemporaryDirectory() as name:
        store, folder = Store(Path(name) / "store"), Path(name)

        def publish() -> None:
            for _ in range(options.results):
                store.publish(
                    run_of(next(seeds)),
                    facts,
                    lambda place: write_predictions(place / "predictions.safetensors", log_probs, labels, ids, None),
                )

        def dump() -> None:
            for _ in range(options.results):
                number = next(new)
                save_file({"log_probs": log_probs, "labels": labels}, folder / f"{number}.safetensors")
                (folder / f"{number}.json").write_text(json.dumps({**facts, "ids": ids}))

        ways = {
            "store, write": publish,
            "plain dump, write": dump,
            "store, read": lambda: [store.predictions(run_of(seed)) for seed in range(options.results)],
            "plain dump, read": lambda: [
                (load_file(folder / f"{number}.safetensors"), json.loads((folder / f"{number}.json").read_text()))
                for number in range(options.results)
            ],
        }
        seconds = take_turns(ways, options.rounds)
    ratios = [Ratio(f"store, {what}", f"plain dump, {what}") for what in ("write", "read")]
    settings = {name: getattr(options, name) for name in ("results", "examples")}
    report(options.json, f"{options.results} results of {DRAWS} draws", seconds, ratios, settings)


if __name__ == "__main__":
    main()
