"""The scale of Adam's second moments: how many examples one squared batch gradient stands for.

    python tools/measure_kappa.py [--task notes_four] [--steps 600] [--lr 6e-4] [--dropout 0] [--beta2 0.999]

For each batch size B it trains AdamW on the embedded base, and compares its bias-corrected second moments v with the
exact Fisher information of the N training examples at the final adapters (the diagonal of the GGN), and with the
empirical one (squared gradients of the labels). Prints kappa = sum F / (N sum v) for both, which theory puts at B, and
the correlation of log v with log F over the parameters.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch.nn.functional import one_hot

from bench.data.splits import DataSource, load_split
from bench.model.choice_model import load_model
from bench.plan.base_model import choose_model
from bench.plan.runs import families, plan_run
from bench.run.runner import Runner
from bench.specs import FitSpec
from bench.store.store import Store
from bench.task import get_task
from methods.adam_posterior import Moments
from methods.laplace.curvature import Tape, diagonal

KINDS = ("lora_A", "lora_B")


def information(fit: FitSpec, mean: Moments) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], int]:
    """(exact, empirical) diagonal Fisher information of the training examples by parameter, and their number."""
    task = get_task(fit.data.task)
    model = load_model(fit.model, None, torch.device("cpu"))
    model.prepare(task.answers, 0)
    data = model.encode(load_split(task, "train", DataSource()).examples, fit.train.max_length)
    exact = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in mean.value.items()}
    empirical = {name: torch.zeros_like(value) for name, value in exact.items()}
    with model.assign(mean.value):
        for _, batch in data.in_order(8):
            for name, value in diagonal(Tape(model, batch, list(model.params))).items():
                exact[name] += value.double()
            tape = Tape(model, batch, list(model.params))
            error = tape.logits.detach().softmax(-1) - one_hot(batch.labels, tape.logits.shape[1])
            for name, value in tape.gradients(error, last=True).items():
                empirical[name] += value.double().square().sum(0)
    return exact, empirical, len(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", default="notes_four")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--beta2", type=float, default=0.999)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'B':>3} {'kind':>7} {'kappa, Fisher':>14} {'kappa, empirical':>17} {'correlation':>12}")
    for size in (2, 4, 8, 16):
        settings = {"steps": options.steps, "batch_size": size, "lora": {"dropout": options.dropout},
                    "adamw": {"lr": options.lr, "beta2": options.beta2}}  # fmt: skip
        run = plan_run(
            "adam_moments", options.task, 1, settings=settings, model=choose_model({})[0], source=DataSource()
        )
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder))
            Runner(store=store).run(families([run])[0])
            moments = store.posterior(run.fit)
        assert isinstance(moments, Moments)
        exact, empirical, count = information(run.fit, moments)
        for kind in KINDS:
            names = [name for name in exact if kind in name]
            f, e, v = (torch.cat([part[n].double().flatten() for n in names])
                       for part in (exact, empirical, moments.squares))  # fmt: skip
            alive = (f > 0) & (v > 0)
            both = torch.stack([f[alive].log(), v[alive].log()])
            correlation = float(torch.corrcoef(both)[0, 1])
            kappas = [float(part.sum() / (count * v.sum())) for part in (f, e)]
            print(f"{size:>3} {kind:>7} {kappas[0]:>14.2f} {kappas[1]:>17.2f} {correlation:>12.3f}", flush=True)


if __name__ == "__main__":
    main()
