"""How time and memory grow with rank, layers, draws, answers and training examples: slopes of log cost in log size.

    python -m tools.time_growth [--rounds 3] [--json FILE]

One size varies at a time, over a Llama of random weights. A slope of 1 is a cost in proportion, 0 a cost that does not
depend on the size. Memory is what an operation adds to the resident memory at its peak, by the kernel's own count.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from bench.api import open_model
from bench.data.batches import Encoded
from bench.method import get_method
from bench.model.choice_model import ChoiceModel
from bench.model.formats import EMBEDDED
from bench.posterior import DiagGaussian, Posterior
from bench.specs import LoraSpec
from bench.task import Example
from methods.ivon.optimizer import IVON
from tools.time_laplace import fit, predict
from tools.timing import report

TOKENS, BATCH, LETTERS = 48, 4, "ABCDEFGH"
SHAPE = {
    "vocab_size": 1536, "hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 4,
    "num_key_value_heads": 4, "max_position_embeddings": 1024,
}  # fmt: skip
Operation = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Size:
    """One point: what the cost may depend on."""

    rank: int = 8
    layers: int = 4
    draws: int = 4
    answers: int = 4
    examples: int = 16


AXES = {  # what varies: its values, the operations
    "rank": (
        (8, 32, 128),
        ("training step, AdamW", "training step, IVON", "Laplace fit, KFAC", "linearised predictive"),
    ),
    "layers": (
        (2, 4, 8),
        ("training step, AdamW", "Laplace fit, KFAC", "linearised predictive", "prediction by draws"),
    ),
    "draws": ((2, 4, 8), ("prediction by draws",)),
    "answers": ((2, 4, 8), ("training step, AdamW", "Laplace fit, KFAC", "linearised predictive")),
    "examples": ((8, 16, 32), ("Laplace fit, KFAC", "Laplace fit, diagonal", "prediction by draws")),
}


def model_of(size: Size) -> ChoiceModel:
    """The base with adapters, random weights."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE, num_hidden_layers=size.layers)).eval()
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    model = open_model(base, tokenizer, lora=LoraSpec(r=size.rank)).choice
    model.prepare(tuple(LETTERS[: size.answers]), seed=1)
    model.load({name: value + 0.01 * torch.randn(value.shape) for name, value in model.params.items()})  # B is 0
    return model


def data_of(size: Size) -> Encoded:
    """Prompts of one length."""
    tokens = tuple(tuple(torch.randint(10, 1500, (TOKENS,)).tolist()) for _ in range(size.examples))
    examples = tuple(Example("", number % size.answers, id=str(number)) for number in range(size.examples))
    return Encoded(tokens, examples, 0, torch.device("cpu"), 0)


def operations(size: Size) -> dict[str, Operation]:
    """Everything that is timed, at this size."""
    model, data, answers = model_of(size), data_of(size), tuple(LETTERS[: size.answers])
    batch, parameters = data.batch(range(BATCH)), list(model.params.values())
    adamw = torch.optim.AdamW(parameters, lr=1e-5)
    ivon = IVON(parameters, 1e-5, ess=1e6, h0=1e-3)

    def adamw_step() -> None:
        adamw.zero_grad()
        cross_entropy(model.logits(batch), batch.labels).backward()
        adamw.step()

    def ivon_step() -> None:
        with ivon.sampled():
            cross_entropy(model.logits(batch), batch.labels).backward()
        ivon.step()
        ivon.zero_grad()

    def laplace(name: str) -> Posterior:
        return fit(get_method(name).make({"prior_precision": 1.0}), model, data)

    found = laplace("la_kfac")
    mean = model.snapshot()
    narrow = DiagGaussian(mean, {name: torch.full_like(value, 1e-6) for name, value in mean.items()})
    return {
        "training step, AdamW": adamw_step,
        "training step, IVON": ivon_step,
        "Laplace fit, KFAC": lambda: laplace("la_kfac"),
        "Laplace fit, diagonal": lambda: laplace("la_diag"),
        "linearised predictive": lambda: predict(get_method("la_kfac").make({}), found, model, data, answers),
        "prediction by draws": lambda: predict(
            get_method("ivon").make({"draws": size.draws}), narrow, model, data, answers
        ),
    }


def peak_mib(run: Operation) -> float:
    """MiB that ``run`` adds to the resident memory at its peak (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)  # else it would reuse what was freed before
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The least-squares slope of log cost in log size."""
    return statistics.linear_regression([math.log(x) for x in sizes], [math.log(y) for y in costs]).slope


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {}
    slopes = []
    for axis, (values, names) in AXES.items():
        costs: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for value in values:
            made = operations(Size(**{axis: value}))
            for name in names:
                made[name]()
                spent = seconds[f"{name}, {axis} {value}"] = []
                for _ in range(options.rounds):
                    began = process_time()
                    made[name]()
                    spent.append(process_time() - began)
                costs[name].append((statistics.median(spent), max(peak_mib(made[name]), 0.01)))
        for name, found in costs.items():
            times, memory = zip(*found, strict=True)
            slopes.append(
                {"what": name, "against": axis, "sizes": values, "time": slope(values, times),
                 "memory": slope(values, memory), "peak_mib": memory}
            )  # fmt: skip
    settings = {
        **dataclasses.asdict(Size()),
        "tokens": TOKENS,
        "hidden": SHAPE["hidden_size"],
        "seconds": "of processor",
    }
    report(
        options.json, "growth of the cost, one size at a time", seconds, settings=settings, tables={"slopes": slopes}
    )


if __name__ == "__main__":
    main()
