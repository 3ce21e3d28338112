"""A training of the embedded base by the suite's loop, against a bare loop of transformers and PEFT, and where it goes.

    python -m tools.time_loop [--steps 300] [--rounds 7] [--json FILE]

Both sides train the same adapters on the same notes with AdamW, a linear schedule and dropout. The suite's side is the
whole loop: seeds, clock, trace, progress and checkpoints are in it. The parts of a step are timed in a training more.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from bench.data.batches import Encoded
from bench.data.splits import DataSource, load_split
from bench.method import FitJob, get_method
from bench.model import choice_model
from bench.model.answers import answer_tokens
from bench.model.choice_model import ChoiceModel, load_model
from bench.model.formats import EMBEDDED
from bench.specs import DataSpec, FitSpec, LoraSpec, ModelSpec, TrainSpec
from bench.task import get_task
from bench.train import replay
from bench.train.checkpoint import Checkpointing
from tools.timing import Ratio, report, take_turns

TASK, BATCH, LR = get_task("notes_four"), 4, 5e-5
BARE, PLAIN, SUITE, REST = "transformers + PEFT", "suite, plain steps", "suite", "everything else"


class Bare:
    """What a script of transformers and PEFT does."""

    def __init__(self, data: Encoded, ids: Sequence[int]) -> None:
        lora = LoraSpec()
        form = LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets))
        self.module: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32), form)
        self.module.train()
        self.data, self.ids = data, list(ids)

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids and mask, padded to the longest prompt, and labels."""
        prompts = [self.data.tokens[row] for row in rows]
        width = max(map(len, prompts))
        return (
            torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]),
            torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]),
            torch.tensor([self.data.examples[row].label for row in rows]),
        )

    def logits(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, C) logits of the answers."""
        found: Tensor = self.module(input_ids=tokens, attention_mask=mask).logits[:, -1, self.ids]
        return found

    def train(self, steps: int) -> None:
        optimizer = torch.optim.AdamW([p for p in self.module.parameters() if p.requires_grad], lr=LR)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        order = torch.randperm(len(self.data)).tolist()
        for step in range(steps):
            rows = [order[(BATCH * step + place) % len(order)] for place in range(BATCH)]
            tokens, mask, labels = self.batch(rows)
            loss = cross_entropy(self.logits(tokens, mask), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def plain(model: ChoiceModel, data: Encoded, steps: int) -> None:
    """The same as :func:`suite`, without what makes steps of a small base shorter."""
    with mock.patch.object(replay, "SHORT", math.inf), mock.patch.object(choice_model, "SMALL", 0):
        suite(model, data, steps)


def suite(model: ChoiceModel, data: Encoded, steps: int) -> None:
    """AdamW's fit, as a run has it."""
    spec = FitSpec(
        method="adamw", version=1, options={}, data=DataSpec(task=TASK.name, version=1, revision=""), holdout=0.0,
        model=model.spec, train=TrainSpec(steps=steps, batch_size=BATCH), seed=1,
    )  # fmt: skip
    model.prepare(TASK.answers, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        job = FitJob(spec, lambda: model, lambda: data, Checkpointing(Path(folder) / "checkpoint"))
        get_method("adamw").make({"lr": LR}).fit(job)


PARTS = {  # part of a step: the functions that are it
    "batch": ((Encoded, "batch"), (Bare, "batch")),
    "forward": ((ChoiceModel, "logits"), (Bare, "logits")),
    "backward": ((Tensor, "backward"),),
    "replayed passes": ((replay.ReplayedLoss, "_replay"),),
    "optimizer": ((torch.optim.AdamW, "step"),),
}


class Watch:
    """Seconds by part of a step on one line of time: each moment belongs to the innermost part that runs then."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys([*PARTS, REST], 0.0)
        self._running = [REST]
        self._since = time.perf_counter()

    def _change(self) -> None:
        """Count the time since the last change for the part that runs."""
        now = time.perf_counter()  # never steps back, as processors' clocks do on some machines
        self.spent[self._running[-1]] += now - self._since
        self._since = now

    @contextlib.contextmanager
    def inside(self, part: str) -> Iterator[None]:
        self._change()
        self._running.append(part)
        yield
        self._change()
        self._running.pop()

    def timed(self, part: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with self.inside(part):
                return inner(*arguments, **options)

        return call


def profile(train: Callable[[int], None], steps: int) -> dict[str, float]:
    """Milliseconds of a step by part; their sum is the step."""
    with contextlib.ExitStack() as stack:
        watch = Watch()
        for part, functions in PARTS.items():
            for owner, name in functions:
                stack.enter_context(mock.patch.object(owner, name, watch.timed(part, getattr(owner, name))))
        with watch.inside(REST):
            train(steps)
    return {part: 1e3 * seconds / steps for part, seconds in watch.spent.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=300, help="steps per round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = load_model(ModelSpec(), None, torch.device("cpu"))
    data = model.encode(load_split(TASK, "train", DataSource()).examples[:256], 320)
    bare = Bare(data, answer_tokens(model.tokenizer, TASK.answers, model.name))
    sides = {
        BARE: bare.train,
        PLAIN: lambda steps: plain(model, data, steps),
        SUITE: lambda steps: suite(model, data, steps),
    }
    ways = {name: lambda train=train: train(options.steps) for name, train in sides.items()}  # type: ignore[misc]
    seconds = take_turns(ways, options.rounds, 1, time.process_time)
    found = {name: profile(train, options.steps) for name, train in sides.items()}
    settings = {"steps": options.steps, "batch": BATCH, "threads": 1, "seconds": "of processor"}
    ratios = [Ratio(PLAIN, BARE), Ratio(SUITE, PLAIN), Ratio(SUITE, BARE, 0.70)]
    question = f"{options.steps} training steps of the embedded base"
    report(options.json, question, seconds, ratios, settings, tables={"profile": found})


if __name__ == "__main__":
    main()
