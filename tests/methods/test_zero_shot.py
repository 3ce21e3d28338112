"""Zero-shot is the base without adapters, whatever the adapters in memory are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from support import compute, plan

from analysis.records.load import load
from bench.data.splits import DataSource, load_split
from bench.method import PredictJob
from bench.model.choice_model import load_model
from bench.posterior import Point
from bench.task import get_task
from methods.zero_shot import ZeroShot


def test_predicts_what_the_bare_base_predicts(tmp_path: Path) -> None:
    run = plan("zero_shot", "notes_four")
    stored = compute(run, tmp_path).predictions(run)["log_probs"]
    model = load_model(run.fit.model, None, torch.device("cpu"))
    task = get_task("notes_four")
    model.prepare(task.answers, 9)
    examples = load_split(get_task("notes_four"), "validation", DataSource()).examples
    with torch.no_grad():
        for parameter in model.params.values():
            parameter.normal_()
        rows = [model.encode(examples[i : i + 1], 320).batch([0]) for i in range(8)]
        for module in model._module.modules():
            if hasattr(module, "lora_A"):
                module.enable_adapters(False)
        bare = torch.cat([model.logits(row) for row in rows]).log_softmax(-1)
    np.testing.assert_allclose(stored[0, :8], bare.numpy(), atol=1e-5)
    job = PredictJob(Point({}), examples[:8], task.answers, torch.Generator(), 8, lambda: model, 320)
    np.testing.assert_allclose(ZeroShot().predict(job)[0], bare, atol=1e-5)


def test_is_a_reference_row_that_cost_no_training(tmp_path: Path) -> None:
    for method in ("zero_shot", "adamw"):
        run = plan(method)
        store = compute(run, tmp_path)
        if method == "zero_shot":
            assert store.fit_facts(run.fit)["steps"] == 0
    reference = {group.name: group.reference for group in load(tmp_path).results}
    assert reference == {"zero_shot": True, "adamw": False}
