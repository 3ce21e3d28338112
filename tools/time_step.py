"""A training step, and prediction over a validation split, against the usual loop of transformers and PEFT.

    python -m tools.time_step [--part train|predict] [--rounds 3] [--layers 30] [--dtype float32] [--best] [--json FILE]

The base has SmolLM2-135M's shape and random weights; the prompts have the lengths of real ARC-E prompts
(arc_e_lengths.json), begin alike for as many tokens as real ones do, and are random after that. The usual loop pads to
the longest prompt, takes the batches in file order and computes the logits of the whole vocabulary at every position.
Both sides train the same adapters with AdamW.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from bench.api import open_model
from bench.data.batches import Encoded
from bench.model.answers import answer_tokens
from bench.model.choice_model import ChoiceModel
from bench.model.formats import EMBEDDED
from bench.task import Example
from tools.timing import Ratio, report, take_turns

SMOLLM2 = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192, "tie_word_embeddings": True,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LENGTHS = Path(__file__).parent / "arc_e_lengths.json"
ANSWERS, BATCH, TOKENS = ("A", "B", "C", "D"), 4, 1024
USUAL, SHARED = "transformers + PEFT", "suite, packed, shared prefix"


def base(layers: int, dtype: torch.dtype) -> Any:
    """The frozen base; the same weights at each call."""
    torch.manual_seed(0)
    config = LlamaConfig(**{**SMOLLM2, "num_hidden_layers": layers})
    return AutoModelForCausalLM.from_config(config).to(dtype).eval()


def prompts(lengths: Sequence[int], shared: int) -> Encoded:
    """Random prompts of those lengths, whose first ``shared`` tokens are the same, with random labels."""
    generator = torch.Generator().manual_seed(3)
    first, *rests = (torch.randint(10, 1500, (n,), generator=generator).tolist() for n in (shared, *lengths))
    tokens = tuple(tuple((first + rest)[:length]) for rest, length in zip(rests, lengths, strict=True))
    labels = torch.randint(0, len(ANSWERS), (len(lengths),), generator=generator).tolist()
    examples = tuple(Example("", label, id=str(number)) for number, label in enumerate(labels))
    return Encoded(tokens, examples, 0, torch.device("cpu"), 0)


class Usual:
    """What a script of transformers and PEFT does."""

    def __init__(self, module: Any, ids: Sequence[int]) -> None:
        form = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.1, target_modules=["q_proj", "v_proj"])
        self.module, self.ids = get_peft_model(module, form), list(ids)
        self.optimizer = torch.optim.AdamW([p for p in self.module.parameters() if p.requires_grad], lr=1e-4)

    def logits(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        width = max(map(len, prompts))
        tokens = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        found: Tensor = self.module(input_ids=tokens, attention_mask=mask).logits[:, -1, self.ids]
        return found.float()

    def train(self, data: Encoded, rows: Sequence[int]) -> None:
        self.module.train()
        loss = cross_entropy(
            self.logits([data.tokens[row] for row in rows]), torch.tensor([data.examples[row].label for row in rows])
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def predict(self, data: Encoded) -> Tensor:
        self.module.eval()
        return torch.cat([self.logits(data.tokens[n : n + BATCH]) for n in range(0, len(data), BATCH)])


class Ours:
    """The suite's model and batches."""

    def __init__(self, model: ChoiceModel) -> None:
        self.model = model
        self.optimizer = torch.optim.AdamW(model.params.values(), lr=1e-4)

    def train(self, data: Encoded, rows: Sequence[int]) -> None:
        batch = data.batch(rows)
        self.optimizer.zero_grad()
        with self.model.dropout():
            cross_entropy(self.model.logits(batch), batch.labels).backward()
        self.optimizer.step()

    @torch.no_grad()
    def predict(self, data: Encoded, tokens: int = 0) -> Tensor:
        found = torch.empty(len(data), len(ANSWERS))
        for rows, batch in data.in_order(32, tokens):
            found[rows] = self.model.logits(batch)
        return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=("train", "predict"), default="train")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--batches", type=int, default=4, help="train: steps per round")
    parser.add_argument("--prompts", type=int, default=96, help="predict: prompts, spread evenly over the split")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--best", action="store_true", help="train: the usual loop and the suite's fastest way alone")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    tokenizer, dtype = AutoTokenizer.from_pretrained(EMBEDDED), getattr(torch, options.dtype)
    model = open_model(base(options.layers, dtype), tokenizer, packing=True, shared_prefix=True).choice
    model.prepare(ANSWERS, seed=1)
    usual = Usual(base(options.layers, dtype), answer_tokens(tokenizer, ANSWERS, "the embedded tokenizer"))
    ours, known = Ours(model), json.loads(LENGTHS.read_text())
    if options.part == "train":
        lengths = known["train"][: BATCH * options.batches]
        padded = prompts(lengths, known["shared"])
        packed = dataclasses.replace(padded, packing=True)
        shared = dataclasses.replace(packed, shared_prefix=True)
        steps = [range(n, n + BATCH) for n in range(0, len(lengths), BATCH)]
        ways = {
            USUAL: lambda: [usual.train(padded, rows) for rows in steps],
            "suite, padded": lambda: [ours.train(padded, rows) for rows in steps],
            "suite, packed": lambda: [ours.train(packed, rows) for rows in steps],
            SHARED: lambda: [ours.train(shared, rows) for rows in steps],
        }
        if options.best:
            ways = {name: ways[name] for name in (USUAL, SHARED)}
        ratios = [*(Ratio(name, USUAL) for name in ways if name not in (USUAL, SHARED)), Ratio(SHARED, USUAL, 0.60)]
        steps_text = f"{options.batches} training step{'s' * (options.batches > 1)}"
        question = f"{steps_text}, SmolLM2's shape with {options.layers} layers"
    else:
        every = max(1, len(known["validation"]) // options.prompts)
        data = prompts(known["validation"][::every][: options.prompts], known["shared"])
        shared = dataclasses.replace(data, packing=True, shared_prefix=True)
        predicted: dict[str, Tensor] = {}
        tokens = f"suite, {TOKENS} tokens a pass"
        ways = {
            USUAL: lambda: predicted.update({USUAL: usual.predict(data)}),
            tokens: lambda: predicted.update({tokens: ours.predict(data, TOKENS)}),
            SHARED: lambda: predicted.update({SHARED: ours.predict(shared, TOKENS)}),
        }
        ratios = [Ratio(tokens, USUAL), Ratio(SHARED, USUAL, 0.50)]
        question = f"prediction of {len(data)} ARC-E validation prompts by SmolLM2's shape with {options.layers} layers"
    settings = {name: getattr(options, name) for name in ("layers", "dtype")}
    seconds = take_turns(ways, options.rounds, int(options.part == "train"), time.process_time)
    if options.part == "predict":
        gap = max(float((predicted[USUAL] - predicted[way]).abs().max()) for way in (tokens, SHARED))
        if not gap < (1e-4 if dtype == torch.float32 else 0.1):  # B is 0 on both sides
            raise SystemExit(f"The two sides do not predict the same: their logits differ by {gap:.1g}.")
    settings |= {"batch": BATCH, "threads": 1, "seconds": "of processor"}
    report(options.json, question, seconds, ratios, settings)


if __name__ == "__main__":
    main()
