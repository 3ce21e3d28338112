"""Laplace against mathematics: exact Jacobians, the exact GGN, dense evidence and covariance, laplace-torch itself."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import compute, plan
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer

from bench.data.batches import Batch, Encoded
from bench.model.choice_model import EMBEDDED, Adapter, ChoiceModel, load_model
from bench.options import make_method
from bench.posterior import load_posterior
from bench.process.progress import Progress
from bench.registry import get_method
from bench.run.runner import Runner
from bench.specs import LoraSpec, ModelSpec
from bench.store.store import Store
from bench.task import Example
from methods import curvature
from methods.curvature import Tape, diagonal, jacobians, roots
from methods.kronecker import Factor, Factors, KroneckerGaussian, Rows
from methods.laplace import last_block
from methods.laplace_torch import AdapterCurvature, ReadOut, SharedKronLaplace, tune_prior

CPU = torch.device("cpu")
PROMPTS = (
    "Who wrote this? Answer:",
    "Select one of the choices that answers the following question: Who? Choices: A. Cook. B. Nurse. Answer:",
    "When was this written, morning or evening? Answer:",
)


@pytest.fixture(scope="module")
def model() -> ChoiceModel:
    """The embedded base with small adapters, in float64, its adapters away from B = 0."""
    made = load_model(ModelSpec(lora=LoraSpec(r=2)), None, CPU)
    made._module.double()
    for module in made._module.modules():
        if hasattr(module, "variance_epsilon"):  # transformers' norms compute in float32 whatever they are given
            module.forward = functools.partial(rms_norm, module)
    made.prepare(("A", "B", "C"), seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in made.params.values():
            value.add_(0.1 * torch.randn(value.shape, generator=generator, dtype=torch.float64))
    return made


def rms_norm(module: Any, x: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + module.variance_epsilon).rsqrt() * module.weight


@pytest.fixture(scope="module")
def data(model: ChoiceModel) -> Encoded:
    return model.encode([Example(text, label % 3) for label, text in enumerate(PROMPTS)], 64)


def exact_jacobians(model: ChoiceModel, batch: Batch) -> Tensor:
    """(B, C, P) by torch.func, which can pass through a base in floating point."""
    point = {name: value.detach() for name, value in model.params.items()}
    found = torch.func.jacrev(lambda params: model.logits(batch, params))(point)
    return torch.cat([found[name].flatten(2) for name in point], -1)


def exact_ggn(model: ChoiceModel, data: Encoded) -> Tensor:
    """(P, P): sum over examples, one at a time, of J^T (diag p - p p^T) J."""
    total: Any = 0
    for row in range(len(data)):
        batch = data.batch([row])
        jacobian = exact_jacobians(model, batch)[0]
        p = model.logits(batch)[0].detach().softmax(-1)
        total = total + jacobian.T @ (p.diag() - torch.outer(p, p)) @ jacobian
    assert isinstance(total, Tensor)
    return total


def summed(model: ChoiceModel, batches: list[Batch], data: Encoded, convention: str, rank: int = 0) -> Factors:
    names = list(model.params)
    factors = Factors({n: (p.shape[0], p.shape[1]) for n, p in model.params.items()}, rank)
    tokens = sum(map(len, data.tokens))
    for batch in batches:
        factors += Rows(Tape(model, batch, names), convention, tokens, len(data))
    return factors


def dense(factors: Factors, prior: float = 0.0) -> Tensor:
    """The block-diagonal precision that the factors stand for, multiplied out."""
    found = factors.decompose()
    blocks = []
    for name, sides in found.sides.items():
        g, a = (
            found.vectors[str(int(s))] @ found.values[str(int(s))].diag() @ found.vectors[str(int(s))].T for s in sides
        )
        blocks.append(torch.kron(g, a) + prior * torch.eye(len(g) * len(a), dtype=g.dtype))
        assert name in factors.shapes
    return torch.block_diag(*blocks)


def gaussian(model: ChoiceModel, factors: Factors, prior: float) -> KroneckerGaussian:
    found = factors.decompose()
    precision = {"precision": torch.tensor(prior, dtype=torch.float64)}
    return KroneckerGaussian(model.snapshot(), found.vectors, found.values, found.sides, precision)


# Curvature


def test_jacobians_of_a_padded_batch_are_exact(model: ChoiceModel, data: Encoded) -> None:
    batch = data.batch([0, 1, 2])
    found, logits = jacobians(model, batch, list(model.params))
    torch.testing.assert_close(logits, model.logits(batch).detach())
    ours = torch.cat([jacobian.flatten(2) for jacobian in found.values()], -1)
    torch.testing.assert_close(ours, exact_jacobians(model, batch), rtol=1e-6, atol=1e-12)


def test_roots_multiply_to_the_hessian_of_the_cross_entropy() -> None:
    logits = torch.tensor([[0.0, 1.0, -2.0], [30.0, 0.0, 0.0], [-50.0, 0.0, 60.0]], dtype=torch.float64)
    p = logits.softmax(-1)
    hessian = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    r = roots(logits)
    assert r.shape == (2, 3, 3)
    torch.testing.assert_close(torch.einsum("kbc,kbd->bcd", r, r), hessian, atol=1e-15, rtol=1e-12)


@pytest.mark.parametrize("sizes", [[3], [1, 2], [1, 1, 1]])
def test_the_diagonal_is_that_of_the_exact_ggn(model: ChoiceModel, data: Encoded, sizes: list[int]) -> None:
    names, start = list(model.params), 0
    total = torch.zeros(sum(p.numel() for p in model.params.values()), dtype=torch.float64)
    for size in sizes:
        found = diagonal(Tape(model, data.batch(range(start, start + size)), names))
        total += torch.cat([found[name].flatten() for name in names])
        start += size
    torch.testing.assert_close(total, exact_ggn(model, data).diagonal(), rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize("convention", ["expand", "reduce"])
def test_kfac_of_one_prompt_of_one_token_is_each_block_of_the_ggn(model: ChoiceModel, convention: str) -> None:
    one = Encoded(((7,),), (Example("x", 1),), 0, CPU, 0)
    ours, exact = dense(summed(model, [one.batch([0])], one, convention)), exact_ggn(model, one)
    sizes = [p.numel() for p in model.params.values()]
    blocks = torch.block_diag(*[torch.ones(size, size, dtype=torch.float64) for size in sizes])
    torch.testing.assert_close(ours, exact * blocks, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("convention", ["expand", "reduce"])
def test_kfac_ignores_padding_and_how_the_data_are_cut(model: ChoiceModel, data: Encoded, convention: str) -> None:
    whole = summed(model, [data.batch([0, 1, 2])], data, convention)
    ones = summed(model, [data.batch([row]) for row in (2, 0, 1)], data, convention)
    torch.testing.assert_close(dense(whole), dense(ones), rtol=1e-7, atol=1e-10)


def test_the_factors_are_what_the_conventions_say(model: ChoiceModel, data: Encoded) -> None:
    """From the recorded rows of single, unpadded prompts."""
    name = next(n for n in model.params if "lora_B" in n)
    ours = {c: summed(model, [data.batch([0, 1, 2])], data, c) for c in ("expand", "reduce")}
    inputs = {c: torch.zeros(2, 2, dtype=torch.float64) for c in ours}
    tokens = sum(map(len, data.tokens))
    for row, prompt in enumerate(data.tokens):
        x = Tape(model, data.batch([row]), [name]).inputs[name][0, -len(prompt) :]
        inputs["expand"] += x.T @ x / tokens
        inputs["reduce"] += torch.outer(x.mean(0), x.mean(0)) / len(data)
    for convention, factors in ours.items():
        torch.testing.assert_close(factors.inputs[factors.sources[name]]._sum, inputs[convention])


def test_q_and_v_of_a_layer_share_their_input_factor(model: ChoiceModel, data: Encoded) -> None:
    factors = summed(model, [data.batch([0])], data, "expand")
    a = [n for n in model.params if "lora_A" in n]
    assert len({factors.sources[n] for n in a}) == len(a) // 2
    for q in (n for n in a if "q_proj" in n):
        assert factors.sources[q] == factors.sources[q.replace("q_proj", "v_proj")]
    assert len(factors.inputs) == len(a) // 2 + len(a)


def test_a_low_rank_factor_is_the_best_of_its_rank() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(60, 30, generator=generator, dtype=torch.float64) * torch.logspace(0, -4, 30)
    exact = Factor(30, 0)
    exact.add(rows)
    vectors, values = exact.decompose()
    low = Factor(30, 6)
    for part in rows.split(7):
        low.add(part)
    basis, kept = low.decompose()
    assert basis.shape == (30, 6) and torch.allclose(basis.T @ basis, torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(kept, values.flip(0)[:6], rtol=0.02, atol=0)
    assert ((vectors.flip(1)[:, :3] * basis[:, :3]).sum(0).abs() > 0.999).all()


def test_a_map_that_runs_twice_is_refused() -> None:
    linear = nn.Linear(3, 3, bias=False)

    class Twice:
        adapters = {"w": Adapter(linear, linear, True)}

        def logits(self, batch: Batch) -> Tensor:
            return linear(linear(torch.ones(2, 4, 3)))[:, -1]

    with pytest.raises(ValueError, match="ran 2 times"):
        Tape(Twice(), toy_batch(2, 4), ["w"])


# laplace-torch's own backends, evidence and covariance


class Whole(nn.Module):
    """The peft model as laplace-torch's own backends take it."""

    def __init__(self, model: ChoiceModel) -> None:
        super().__init__()
        self.inner = model._module

    def forward(self, x: dict[str, Any]) -> Tensor:
        inputs = {name: x[name] for name in ("input_ids", "attention_mask", "position_ids")}
        logits: Tensor = self.inner(**inputs, use_cache=False).logits[:, -1]
        return logits


def as_mapping(batch: Batch) -> dict[str, Tensor]:
    names = ("input_ids", "attention_mask", "position_ids", "labels")
    return {name: getattr(batch, name) for name in names}


@pytest.fixture(scope="module")
def unpadded(model: ChoiceModel) -> Encoded:
    """Prompts of eight tokens each: the batch needs no padding, which laplace-torch's backends would count."""
    text = [(1, 40 + i, 300, 7 * i + 2, 90, 12, 500, 33) for i in range(3)]
    return Encoded(tuple(text), tuple(Example("x", i) for i in range(3)), 0, CPU, 0)


def test_the_expand_convention_is_that_of_laplace_torch(model: ChoiceModel, unpadded: Encoded) -> None:
    from laplace.curvature import CurvlinopsGGN

    batch = unpadded.batch([0, 1, 2])
    backend = CurvlinopsGGN(Whole(model), "classification")
    _, theirs = backend.kron(as_mapping(batch), batch.labels, N=3)
    ours = summed(model, [batch], unpadded, "expand")
    torch.testing.assert_close(dense(ours), theirs.to_matrix().double(), rtol=1e-5, atol=1e-8)


def test_the_diagonal_is_that_of_laplace_torch(model: ChoiceModel, unpadded: Encoded) -> None:
    from laplace.curvature import GGNInterface

    batch = unpadded.batch([0, 1, 2])
    theirs = GGNInterface(Whole(model), "classification")
    loss, wanted = theirs.full(as_mapping(batch), batch.labels)
    ours = AdapterCurvature(ReadOut(model, model.params, list(model.params)), "classification")
    found_loss, found = ours.diag({"batch": batch}, batch.labels)
    torch.testing.assert_close(found_loss, loss)
    torch.testing.assert_close(found, wanted.diagonal(), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(ours.full({"batch": batch}, batch.labels)[1], wanted, rtol=1e-6, atol=1e-10)


class Loader:
    def __init__(self, data: Encoded) -> None:
        self.dataset = data

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in range(len(self.dataset)):
            batch = self.dataset.batch([row])
            yield {"batch": batch, "labels": batch.labels}


def fitted(model: ChoiceModel, data: Encoded, rank: int = 0) -> SharedKronLaplace:
    scale = {"convention": "expand", "tokens": sum(map(len, data.tokens)), "examples": len(data)}
    read_out = ReadOut(model, model.params, list(model.params), rank)
    laplace = SharedKronLaplace(read_out, "classification", backend=AdapterCurvature, backend_kwargs=scale)
    laplace.fit(Loader(data))  # type: ignore[arg-type]
    return laplace


@pytest.mark.parametrize("rank", [0, 5])
def test_evidence_and_covariance_are_those_of_dense_matrices(model: ChoiceModel, data: Encoded, rank: int) -> None:
    prior = 0.7
    laplace = fitted(model, data, rank)
    facts = tune_prior(laplace, prior, 1, 0.1)
    factors = summed(model, [data.batch([row]) for row in range(3)], data, "expand", rank)
    precision = dense(factors, prior)
    theta = torch.cat([value.detach().flatten() for value in model.params.values()])
    loss = sum(nn.functional.cross_entropy(model.logits(b), b.labels).item() for b in map(data.batch, ([0], [1], [2])))
    ratio = precision.logdet() - len(theta) * torch.tensor(prior, dtype=torch.float64).log()
    assert facts["log_evidence"] == pytest.approx(float(-loss - 0.5 * (ratio + prior * theta @ theta)), rel=1e-6)
    found, _ = jacobians(model, data.batch([0, 1]), list(model.params))
    flat = torch.cat([j.flatten(2) for j in found.values()], -1)
    covariance = gaussian(model, factors, prior).covariance(found)
    torch.testing.assert_close(covariance, flat @ precision.inverse() @ flat.mT, rtol=1e-6, atol=1e-12)


def test_the_covariance_is_that_of_laplace_torch_on_the_same_factors(model: ChoiceModel, unpadded: Encoded) -> None:
    from laplace.baselaplace import KronLaplace
    from laplace.curvature import CurvlinopsGGN

    batch = unpadded.batch([0, 1, 2])
    theirs = KronLaplace(Whole(model), "classification", prior_precision=2.0, backend=CurvlinopsGGN)

    class Once:
        dataset = [0, 1, 2]

        def __iter__(self) -> Iterator[dict[str, Tensor]]:
            yield as_mapping(batch)

    theirs.fit(Once())  # type: ignore[arg-type]
    found, _ = jacobians(model, batch, list(model.params))
    wanted = theirs.functional_variance(torch.cat([j.flatten(2) for j in found.values()], -1))
    ours = gaussian(model, summed(model, [batch], unpadded, "expand"), 2.0)
    torch.testing.assert_close(ours.covariance(found), wanted.double(), rtol=1e-4, atol=1e-8)
    evidence = tune_prior(fitted(model, unpadded), 2.0, 1, 0.1)["log_evidence"]
    assert evidence == pytest.approx(float(theirs.log_marginal_likelihood()), rel=1e-5)


@pytest.mark.parametrize("rank", [0, 5])
def test_draws_have_the_covariance_that_is_stated(model: ChoiceModel, data: Encoded, rank: int) -> None:
    """The root that draws use, applied to every unit matrix, multiplied with itself, inverts the precision."""
    factors = summed(model, [data.batch([0, 1, 2])], data, "expand", rank)
    posterior = gaussian(model, factors, 0.7)
    blocks = []
    for name, (out, width) in factors.shapes.items():
        units = torch.eye(out * width, dtype=torch.float64).view(-1, out, width)
        columns = posterior._root(name, units).flatten(1)
        blocks.append(columns.T @ columns)
    identity = torch.block_diag(*blocks) @ dense(factors, 0.7)
    torch.testing.assert_close(identity, torch.eye(len(identity), dtype=torch.float64), atol=1e-7, rtol=0)


def test_the_prior_precision_maximises_the_evidence(model: ChoiceModel, data: Encoded) -> None:
    laplace = fitted(model, data)
    best = tune_prior(laplace, 0.0, 400, 0.1)
    assert abs(best["log_evidence_slope"]) < 1e-2
    for factor in (0.5, 2.0):
        other = tune_prior(fitted(model, data), factor * best["prior_precision"], 1, 0.1)
        assert other["log_evidence"] < best["log_evidence"]


# A linear model with Gaussian noise: the posterior is known


def toy_batch(examples: int, tokens: int = 1) -> Batch:
    ones = torch.ones(examples, tokens, dtype=torch.long)
    return Batch(ones, ones, ones, torch.zeros(examples, dtype=torch.long), tuple(map(str, range(examples))))


@pytest.mark.parametrize("orthogonal", [False, True])
def test_the_conjugate_posterior_of_a_linear_model(monkeypatch: pytest.MonkeyPatch, orthogonal: bool) -> None:
    """y = W x + noise of variance s2 and prior N(0, I / p): P = I x X^T X / s2 + p I. KFAC is exact; the diagonal is
    for orthogonal inputs."""
    s2, prior, n = 0.25, 2.0, 40
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    if orthogonal:
        x = torch.linalg.qr(x).Q * torch.tensor([1.0, 3.0, 9.0], dtype=torch.float64)
    linear = nn.Linear(3, 2, bias=False, dtype=torch.float64)

    class Linear:
        adapters = {"w": Adapter(linear, linear, True)}

        def logits(self, batch: Batch) -> Tensor:
            return linear(x.unsqueeze(1))[:, -1]

    unit = torch.eye(2, dtype=torch.float64)[:, None, :].expand(2, n, 2) / s2**0.5
    monkeypatch.setattr(curvature, "roots", lambda logits: unit)  # the Hessian of a Gaussian likelihood is I / s2
    exact = torch.kron(torch.eye(2, dtype=torch.float64), x.T @ x / s2) + prior * torch.eye(6, dtype=torch.float64)
    batch = toy_batch(n)
    for convention in ("expand", "reduce"):
        factors = Factors({"w": (2, 3)})
        factors += Rows(Tape(Linear(), batch, ["w"]), convention, n, n)
        torch.testing.assert_close(dense(factors, prior), exact, rtol=1e-10, atol=1e-10)
    variance = 1 / (diagonal(Tape(Linear(), batch, ["w"]))["w"].flatten() + prior)
    distance = (variance / exact.inverse().diagonal() - 1).abs().max()
    assert distance < 1e-10 if orthogonal else 0.001 < distance < 0.2


# The methods


def test_the_evidence_is_stored_and_a_fixed_precision_is_kept(tmp_path: Any) -> None:
    run = plan("la_kfac")
    facts = compute(run, tmp_path).fit_facts(run.fit)
    assert facts["seconds"]["train"] == 0 and facts["seconds"]["posterior"] > 0 and facts["steps"] == 0
    assert facts["diagnostics"]["log_evidence"] < facts["diagnostics"]["log_likelihood"] < 0
    fixed = plan("la_kfac", la_kfac={"prior_precision": 5.0})
    posterior = load_posterior(compute(fixed, tmp_path).folder(fixed.fit) / "posterior.safetensors")
    assert isinstance(posterior, KroneckerGaussian) and float(posterior.prior["precision"]) == 5


@pytest.mark.parametrize("name", ["la_kfac", "la_diag"])
def test_tau_zero_is_adamw_and_ways_to_predict_agree_where_the_posterior_is_narrow(name: str, tmp_path: Any) -> None:
    base, zero = plan("adamw"), plan(name, **{name: {"tau": 0}})
    assert (compute(base, tmp_path).predictions(base)["log_probs"] == compute(zero, tmp_path).predictions(zero)[
        "log_probs"]).all()  # fmt: skip
    narrow = {"prior_precision": 1e7}
    ways = [{}, {"link": "probit"}, {"predictive": "sampled"}, {"jacobian_batch": 3}]
    runs = [plan(name, **{name: {**narrow, **way}}) for way in ways]
    found = [compute(run, tmp_path).predictions(run)["log_probs"] for run in runs]
    assert [f.shape[0] for f in found] == [1, 1, 10, 1]
    for other in found:
        assert abs(other.mean(0) - found[0][0]).max() < 0.01


@pytest.mark.parametrize("name", ["la_kfac", "la_diag"])
def test_only_the_last_block_is_uncertain_when_asked(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[tuple[str, ...]] = set()

    def noted(model: Any, batch: Any, names: Any) -> Any:
        asked.add(tuple(names))
        return jacobians(model, batch, names)

    monkeypatch.setattr("methods.laplace.jacobians", noted)
    run = plan(name, **{name: {"subset": "last"}})
    posterior = compute(run, tmp_path).posterior(run.fit)
    (draw,) = posterior.draws(1, torch.Generator().manual_seed(0))
    moved = {n for n, value in draw.items() if not torch.equal(value, posterior.mean[n])}
    assert moved == set(last_block(list(draw))) and all(".1." in n for n in moved)
    assert asked == {tuple(last_block(list(draw)))}, "Jacobians of what is known are not taken"


def test_a_low_rank_posterior_is_small_and_wider(tmp_path: Any) -> None:
    runner = Runner(store=Store(tmp_path), log=lambda text: None)
    sizes, spreads = [], []
    for rank in (0, 4):
        run = plan("la_kfac", la_kfac={"factor_rank": rank, "prior_precision": 3.0})
        posterior = runner.fit(run.fit, Progress())
        sizes.append((runner.store.folder(run.fit) / "posterior.safetensors").stat().st_size)
        (draw,) = posterior.draws(1, torch.Generator().manual_seed(0))
        spreads.append(sum(float((draw[n] - m).square().sum()) for n, m in posterior.mean.items()))
    assert sizes[1] < sizes[0] / 2 and spreads[1] > spreads[0]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"convention": "expnd"}, "Did you mean 'expand'"),
        ({"link": "probt"}, "Did you mean 'probit'"),
        ({"tau": -1}, "la_kfac.tau is -1.0: give at least 0"),
        ({"draws": 0}, "at least 1"),
        ({"factor_rank": -1}, "la_kfac.factor_rank is -1: give at least 0"),
    ],
)
def test_wrong_options_get_a_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_method(get_method("la_kfac"), values)


def test_names_without_blocks_have_no_last_block() -> None:
    with pytest.raises(ValueError, match="no block numbers"):
        last_block(["head.lora_A.weight"])


# Other architectures


@pytest.mark.parametrize(
    ("kind", "options", "targets"),
    [
        ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 512}, ("c_attn", "c_proj", "c_fc")),
        (
            "gpt_neox",
            {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2},
            ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
        ),
        (
            "opt",
            {"hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
            | {"word_embed_proj_dim": 8, "max_position_embeddings": 512},
            ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "project_in"),
        ),
    ],
)
def test_jacobians_and_diagonal_are_exact_on_other_architectures(
    kind: str, options: dict[str, Any], targets: tuple[str, ...], tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=1, **options)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    made = load_model(ModelSpec(id="tiny", lora=LoraSpec(r=2, targets=targets)), tmp_path, CPU)
    made._module.double()
    made.prepare(("A", "B", "C"), seed=3)
    with torch.no_grad():
        for value in made.params.values():
            value.add_(0.1 * torch.randn(value.shape, dtype=torch.float64))
    data = made.encode([Example(text, label % 3) for label, text in enumerate(PROMPTS)], 64)
    batch, names = data.batch([0, 1, 2]), list(made.params)
    found, _ = jacobians(made, batch, names)
    ours = torch.cat([found[name].flatten(2) for name in names], -1)
    torch.testing.assert_close(ours, exact_jacobians(made, batch), rtol=1e-8, atol=1e-14)
    assert all(jacobian.abs().max() > 0 for jacobian in found.values())
    diag = diagonal(Tape(made, batch, names))
    exact = exact_ggn(made, data).diagonal()
    torch.testing.assert_close(torch.cat([diag[name].flatten() for name in names]), exact, rtol=1e-8, atol=1e-16)
