"""Packed prompts against each prompt alone: equal or refused, for logits, for training and for what hooks read."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CPU, FAMILIES, LETTERS, LLAMA, PROMPTS, drawn, examples, lora, one_by_one, saved
from torch import Tensor

from bench.data.batches import Batch
from bench.errors import ModelNotUsable
from bench.model.base import Base
from bench.model.choice_model import ChoiceModel, load_model
from bench.model.forward.packed_attention import by_prompt
from bench.plan.base_model import choose_model
from bench.specs import RunSpec, to_json
from bench.store.predictions import read_predictions
from methods.blob.flipout import a_factors, flipout
from methods.laplace.curvature import Tape, jacobians
from tests.support import bench, compute, plan_few, result_bytes

TWIN = "Which is it? Choices: A. red B. green Answer:"  # as long as another
ALIKE = tuple("Select one: " + prompt for prompt in sorted([*PROMPTS, TWIN], key=len))


def model_of(name: str, targets: tuple[str, ...] = (), **options: Any) -> ChoiceModel:
    config, own = FAMILIES[name]
    spec = dataclasses.replace(lora((*own, *targets)), **{"packing": True, **options})
    model = load_model(spec, saved(name, config), CPU)
    model.prepare(LETTERS[:4], seed=3)
    return model


def sharing(name: str, targets: tuple[str, ...] = (), **options: Any) -> tuple[ChoiceModel, Batch]:
    """A model whose prompts share their first tokens, and a batch of them, the shortest one first."""
    model = model_of(name, targets, shared_prefix=True, **options)
    batch = model.encode(examples(ALIKE), 320).batch(range(len(ALIKE)))
    assert batch.packed is not None and batch.packed.shared > 8  # more than the windows of FAMILIES
    return model, batch


def batch_of(model: ChoiceModel) -> Batch:
    """Prompts of four lengths, the long one first, so that a leak would show."""
    batch = model.encode(examples(PROMPTS[::-1]), 320).batch(range(len(PROMPTS)))
    assert batch.packed is not None and batch.packed.input_ids.numel() < batch.input_ids.numel()
    return batch


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma", "gpt2", "opt", "mistral", "gemma2", "granite", "phi3"])
def test_packed_prompts_are_answered_as_each_alone(name: str) -> None:
    """Windows (mistral, gemma2), soft caps (gemma2), a logit scale (granite), learned positions (gpt2, opt)."""
    model = model_of(name)
    with model.assign(drawn(model)), torch.no_grad():
        alone = one_by_one(model, PROMPTS[::-1])
        torch.testing.assert_close(model.logits(batch_of(model)), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_attention_never_sees_two_packed_prompts_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it where gradient checkpointing computes a layer again."""
    model = model_of(name)
    batch = batch_of(model)
    assert batch.packed is not None
    seen: list[int] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def noted(query: Tensor, *others: Any, **options: Any) -> Tensor:
        seen.append(query.shape[2])
        return attend(query, *others, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    with model.recompute().on():
        model.logits(batch).sum().backward()  # type: ignore[no-untyped-call]
    passes = 2 * model._base.config.num_hidden_layers
    assert sorted(seen) == sorted(passes * batch.packed.lengths)


def test_packed_gradients_and_the_inputs_of_the_head_are_those_of_padded_rows() -> None:
    model = model_of("gemma2", ("head",))
    batch = batch_of(model)

    def read(batch: Batch) -> list[Tensor]:
        parameters = [value for name, value in model.params.items() if "lora_B" in name]
        gradients = torch.autograd.grad(model.logits(batch).square().sum(), parameters)
        return [*gradients, model.features(batch).detach(), *model.last_layer(batch)]

    with model.assign(drawn(model)):
        for packed, padded in zip(read(batch), read(batch.padded()), strict=True):
            torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)


def test_curvature_reads_the_padded_rows() -> None:
    model = model_of("llama")
    batch, names = batch_of(model), list(model.params)
    with model.assign(drawn(model)):
        assert all(rows.shape[:2] == batch.input_ids.shape for rows in Tape(model, batch, names).inputs.values())
        packed, padded = (jacobians(model, one, names)[0] for one in (batch, batch.padded()))
    assert all(torch.equal(packed[name], padded[name]) for name in names)


def test_flipout_has_the_same_law_on_packed_rows() -> None:
    """Standard deviations of the logits over 150 passes; their standard error is 6 %."""
    model = model_of("llama")
    batch, names = batch_of(model), a_factors(model)
    found = []
    with model.assign(drawn(model)), torch.no_grad():
        for one in (batch, batch.padded()):
            sd = dict.fromkeys(names, torch.full((8, 32), 0.05))
            with flipout(model, names, sd.__getitem__, torch.Generator().manual_seed(1)):
                found.append(torch.stack([model.logits(one) for _ in range(150)]).std(0))
    torch.testing.assert_close(found[0], found[1], rtol=0.3, atol=0)


@pytest.mark.parametrize("name", ["falcon", "falcon_h1", "bloom", "mamba"])
def test_a_base_that_would_read_across_prompts_is_refused(name: str) -> None:
    said = r"^tiny (does not answer packed|takes no positions).*read each other: set packing = false in \[model\]"
    with pytest.raises(ModelNotUsable, match=said):
        model_of(name)
    model_of(name, packing=False)


def test_a_base_whose_mask_a_row_outgrows_is_refused() -> None:
    """GPT-Neo keeps a causal mask of its largest length: each prompt fits it, and a row of several does not."""
    config = {
        "vocab_size": 300, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]],
        "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 1,
    }  # fmt: skip
    folder = saved("gpt_neo", config)
    with pytest.raises(ModelNotUsable, match=r"tiny cannot read packed prompts \(.*512.*\): set packing = false"):
        load_model(dataclasses.replace(lora(), packing=True), folder, CPU)
    load_model(lora(), folder, CPU)


def test_a_base_that_scales_queries_by_their_place_in_the_row_is_refused() -> None:
    """Llama 4, beyond 8192 places: no probe is as long."""
    config = LLAMA | {
        "layer_types": ["full_attention"] * 2, "no_rope_layers": [1, 0], "moe_layers": [],
        "interleave_moe_layer_step": 1, "intermediate_size_mlp": 48,
    }  # fmt: skip
    folder = saved("llama4_text", config)
    with pytest.raises(ModelNotUsable, match="tiny scales queries by their place in the row, which packing changes"):
        load_model(dataclasses.replace(lora(), packing=True), folder, CPU)
    model = load_model(lora(), folder, CPU)
    model._places = None  # no table is in the way of so long a prompt
    with pytest.raises(ValueError, match="beyond 8184 tokens, so answers would depend on it: set max_length=8184"):
        model.encode(examples(["which " * 9000 + "Answer:"]), 10000)


@pytest.mark.parametrize(("dtype", "quantization"), [("bfloat16", "none"), ("float32", "int8"), ("float32", "nf4")])
def test_what_is_equal_up_to_rounding_is_accepted_in_every_precision(dtype: str, quantization: str) -> None:
    model = model_of("llama", dtype=dtype, quantization=quantization)
    batch = batch_of(model)
    with torch.no_grad():
        packed, padded = model.logits(batch), model.logits(batch.padded())
    assert (packed - padded).abs().max() < (0.1 if quantization == "none" else 0.2) * padded.std()


# --- prompts that share their first tokens ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["llama", "qwen2", "qwen3", "gemma", "gpt2", "opt", "gpt_neox", "mistral", "gemma3_text", "granite", "phi3"],
)
def test_prompts_that_share_tokens_are_answered_as_each_alone(name: str) -> None:
    """Windows shorter than what is shared (mistral, gemma3_text), learned positions (gpt2, opt)."""
    model, batch = sharing(name)
    with model.assign(drawn(model)), torch.no_grad():
        torch.testing.assert_close(model.logits(batch), one_by_one(model, ALIKE), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["mistral", "gpt2"])
def test_gradients_through_shared_tokens_are_those_of_padded_rows(name: str) -> None:
    model, batch = sharing(name, ("head",))

    def read(batch: Batch) -> list[Tensor]:
        gradients = torch.autograd.grad(model.logits(batch).square().sum(), list(model.params.values()))
        return [*gradients, model.features(batch).detach(), *model.last_layer(batch)]

    with model.assign(drawn(model)):
        plain = read(batch)
        with model.recompute().on():
            checkpointed = read(batch)
        for shared, again, padded in zip(plain, checkpointed, read(batch.padded()), strict=True):
            size = float(padded.abs().max())
            torch.testing.assert_close(shared / size, padded / size, rtol=0, atol=1e-5)
            torch.testing.assert_close(again, shared, rtol=0, atol=0)


def test_shared_tokens_pass_once_and_are_read_by_every_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = sharing("mistral")
    assert batch.packed is not None
    seen: list[tuple[int, int, int]] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def noted(query: Tensor, key: Tensor, *others: Any, **options: Any) -> Tensor:
        seen.append((len(query), query.shape[2], key.shape[2]))
        return attend(query, key, *others, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    model.logits(batch)
    longest, *others = batch.packed.lengths
    alike = Counter(others)
    assert set(alike.values()) == {1, 2}  # prompts of one length are attended together
    expected = [(1, longest, longest), *((alike[n], n - batch.packed.shared, n) for n in alike)]
    assert seen == model._base.config.num_hidden_layers * expected


def test_without_a_mask_attention_is_causal_within_each_prompt() -> None:
    generator = torch.Generator().manual_seed(2)
    query, key, value = (torch.randn(1, 2, 9, 4, generator=generator) for _ in range(3))
    module, places = torch.nn.Module(), torch.tensor([0, 1, 7, 8])  # the second of two prompts, of 7 and 4 tokens
    row, _ = by_prompt(module, query, key, value, None, (7, 4), 2, is_causal=True)
    alone, _ = by_prompt(module, *(one[:, :, places] for one in (query, key, value)), None, is_causal=True)
    torch.testing.assert_close(row[:, 7:], alone[:, 2:])


@pytest.mark.parametrize(("name", "why"), [("gptj", "has its own attention"), ("stablelm", "does not answer prompts")])
def test_a_base_whose_prompts_cannot_share_tokens_is_refused(name: str, why: str) -> None:
    with pytest.raises(ModelNotUsable, match=rf"^tiny {why}.*set shared_prefix = false in \[model\]"):
        model_of(name, shared_prefix=True)
    model_of(name)


# --- whole runs -------------------------------------------------------------------------------------------------------


def packing(run: RunSpec, share: bool = False) -> RunSpec:
    """The same run, packed."""
    model = dataclasses.replace(run.fit.model, packing=True, shared_prefix=share)
    bases = tuple(dataclasses.replace(base, model=model) for base in run.fit.bases)
    return dataclasses.replace(run, fit=dataclasses.replace(run.fit, model=model, bases=bases))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, in which padded runs are those of every way of packing."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("method", ["adamw", "ivon", "la_kfac", "vbll"])
def test_a_packed_training_is_the_padded_one_up_to_rounding(method: str, share: bool, runs: Path) -> None:
    """Without dropout, whose masks have the shape of the rows."""
    run = plan_few(method, steps=30, lora={"dropout": 0.0})
    row = packing(run, share)
    padded, packed = compute(run, runs), compute(row, runs)
    losses = []
    for store, spec in ((padded, run), (packed, row)):
        root = spec.fit.root
        text = (store.folder(root) / "trace.jsonl").read_text()
        losses.append([row["loss"] for row in map(json.loads, text.splitlines()) if "loss" in row])
    assert len(losses[0]) == 30
    torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]), rtol=0, atol=1e-5)
    files = (padded.folder(run), packed.folder(row))
    one, other = (read_predictions(folder / "predictions.safetensors")["log_probs"] for folder in files)
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-4)


@pytest.mark.parametrize("share", [False, True])
def test_the_same_packed_spec_gives_the_same_bytes(share: bool, tmp_path: Path) -> None:
    run = packing(plan_few("adamw"), share)
    first, second = (result_bytes(compute(run, tmp_path / name), run) for name in "ab")
    assert first == second


# --- the option -------------------------------------------------------------------------------------------------------


def test_packing_enters_a_key_only_where_it_is_on() -> None:
    plain, packed = choose_model({})[0], choose_model({"packing": True})[0]
    assert "packing" not in to_json(plain) and to_json(packed) == {**to_json(plain), "packing": True}
    with pytest.raises(ValueError, match=r"packing .*true or false"):
        choose_model({"packing": "yes"})


def test_a_shared_prefix_enters_a_key_only_where_it_is_on_and_needs_packing(tmp_path: Path) -> None:
    packed, shared = choose_model({"packing": True})[0], choose_model({"packing": True, "shared_prefix": True})[0]
    assert "shared_prefix" not in to_json(packed) and to_json(shared) == {**to_json(packed), "shared_prefix": True}
    said = bench("run", "--method", "adamw", "--task", "few_two", "--shared-prefix", cwd=tmp_path, check=None)
    assert "only in packed rows: add --packing" in said.stderr


def test_a_run_from_the_command_line_shares_the_first_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared: set[int] = set()
    inputs = Base.inputs

    def noted(base: Base, batch: Batch) -> dict[str, Any]:
        shared.add(batch.packed.shared if batch.packed else 0)
        return inputs(base, batch)

    monkeypatch.setattr(Base, "inputs", noted)
    options = ("--method", "adamw", "--task", "few_two", "--set", "steps=2", "--packing", "--shared-prefix")
    bench("run", *options, cwd=tmp_path)
    (spec,) = (tmp_path / "runs" / "fits").glob("*/spec.json")
    assert json.loads(spec.read_text())["model"]["shared_prefix"] is True and max(shared) > 0


def test_graphs_of_packed_prompts_are_refused_before_any_work(tmp_path: Path) -> None:
    run = ("run", "--method", "adamw", "--task", "notes_two", "--device", "cuda")
    said = bench(*run, "--graphs", "--packing", cwd=tmp_path, check=None)
    assert "leave out one of --graphs and --packing" in said.stderr
