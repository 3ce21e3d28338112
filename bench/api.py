"""The suite from Python: fit a posterior on a model at hand, predict with it, score it, load a stored one.

    fitted = fit("ivon", model, examples, answers=("A", "B"), tokenizer=tokenizer, settings={"steps": 200})
    predict(fitted, ["Which one? Choices: A. this B. that Answer:"]).probabilities  # (N, C)
    evaluate(fitted, held_out)  # {"accuracy": ..., "ece": ..., "nll": ..., "brier": ...}

The command line runs the same code: specs are planned by bench.plan, fits made by bench.run.fitting, and
``bench predict`` calls :func:`load_posterior` and :func:`predict`.
"""

from __future__ import annotations

import atexit
import dataclasses
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.data.given import Given, as_examples, as_questions, given_task, recall
from bench.data.splits import DataSource
from bench.method import Method, get_method
from bench.metrics import score
from bench.model.choice_model import ChoiceModel, adapted, load_model
from bench.model.identity import LOCAL, MEMORY, is_local
from bench.model.memory import base_in_memory
from bench.model.own_adapter import check_fits, find_adapter, read_adapter
from bench.model.placement import DeviceMap
from bench.plan.base_model import choose_model
from bench.plan.own_adapter import check_needed, settings_over
from bench.plan.runs import Planner, check_seed
from bench.plan.settings import Settings
from bench.posterior import Posterior
from bench.process.progress import Progress
from bench.run.context import Context
from bench.run.fitting import fit as compute_fit
from bench.run.predict import Prediction
from bench.run.predict import predict as answer
from bench.run.stored import Result, open_result
from bench.run.worker import choose_device
from bench.specs import FitSpec, LoraSpec, ModelSpec, RunSpec, to_json
from bench.specs import key as spec_key
from bench.store.store import Store
from bench.task import Example, get_task

__all__ = ["Fitted", "Model", "Prediction", "evaluate", "fit", "load_posterior", "open_model", "predict"]

Base = Any  # a causal language model of transformers, a name or path as --model takes it, or a Model


@dataclasses.dataclass(frozen=True)
class Model:
    """A base with adapters, ready for any number of fits."""

    spec: ModelSpec
    choice: ChoiceModel


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A stored posterior with the method that predicts with it, and the model to predict on.

    Attributes:
        result: the specs, and the store that holds the posterior.
        context: the model and the device.
    """

    result: Result
    context: Context

    @property
    def key(self) -> str:
        """The key of the stored fit, for :func:`load_posterior`."""
        return spec_key(self.result.fit)

    @property
    def answers(self) -> tuple[str, ...]:
        """The C answers, in the order of all probabilities."""
        run = self.result.run
        return get_task((run.data if run is not None else self.result.fit.data).task).answers

    @property
    def posterior(self) -> Posterior:
        """The posterior over the adapter parameters."""
        return self.result.posterior

    @property
    def facts(self) -> Mapping[str, Any]:
        """The record of the fit: steps, seconds, memory, warnings, diagnostics."""
        facts: Mapping[str, Any] = self.result.store.fit_facts(self.result.fit)
        return facts


def open_model(
    model: Base,
    tokenizer: Any = None,
    *,
    lora: LoraSpec | None = None,
    device: str = "auto",
    prompt: str = "plain",
    packing: bool = False,
    shared_prefix: bool = False,
    device_map: DeviceMap | None = None,
    **table: str,
) -> Model:
    """A base with fresh adapters, for several fits.

    A module in memory is taken over: it is frozen, its layers get adapters, and its output layer is replaced by the
    rows of the answers. Reload it for any other use. It stays on the device that it is on.

    Args:
        model: a causal language model of transformers, or a name, folder or .gguf file as ``--model`` takes them.
        tokenizer: the tokenizer of a model in memory.
        lora: the form of the adapters; by default the paper's.
        device: "auto", "cpu", "cuda" or "cuda:N", for a model that is loaded.
        prompt: "plain", or "chat" for the tokenizer's template.
        packing: train on rows that hold all prompts of a batch, without padding.
        shared_prefix: packed rows, at prediction too, hold the tokens that all their prompts begin with once.
        device_map: spread the layers of a model that is loaded over devices: "auto", "balanced", "sequential", or a
            device for each part, as ``--device-map`` takes them.
        table: ``revision``, ``quantization`` and ``dtype`` of a model that is loaded.

    Raises:
        ModelNotUsable: the model cannot be used; with the fix.
    """
    form = lora or LoraSpec()
    if isinstance(model, str | Path):
        asked = {"id": str(model), "prompt": prompt, "packing": packing, "shared_prefix": shared_prefix}
        spec, path = choose_model({**asked, **table})
        spec = dataclasses.replace(spec, lora=form)
        return Model(spec, load_model(spec, path, choose_device(device), device_map))
    spec, base = base_in_memory(model, tokenizer, form, prompt)
    spec = dataclasses.replace(spec, packing=packing, shared_prefix=shared_prefix)
    return Model(spec, adapted(spec, base, next(model.parameters()).device))


def fit(
    method: str,
    model: Base,
    examples: Iterable[Given],
    *,
    answers: Sequence[str],
    tokenizer: Any = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    runs: Path | str | None = None,
    adapter: Path | str | None = None,
    device: str = "auto",
) -> Fitted:
    """Fit a method's posterior to examples; the same call gives the stored one back.

    A method that tunes (temperature, TFB) sets 10 % of the examples aside for it.

    Args:
        method: a name that ``bench list methods`` shows.
        model: as :func:`open_model` takes it, or what that returned.
        examples: (prompt, answer) pairs.
        answers: the C words that the model chooses from, each one token after a prompt.
        tokenizer: the tokenizer of a model in memory.
        settings: as in the ``[set]`` table of a grid, such as ``{"steps": 200, "ivon": {"lr": 0.03}}``.
        seed: of every random number.
        runs: the store; by default one that is deleted when the process ends.
        adapter: a folder that PEFT saved, for the methods ``adapter`` and ``NAME_adapter``; a model that is opened
            takes its form of LoRA.
        device: where a model that is loaded is put.

    Raises:
        LookupError, ValueError: a name is misspelt or a value does not fit, before anything is loaded.
        ModelNotUsable: the model cannot be used.
    """
    check_seed(seed)
    own = None if adapter is None else read_adapter(find_adapter(str(adapter)))
    check_needed(own, method)
    chosen = settings_over(own, settings or {})
    task = given_task(as_examples(examples, answers), answers)
    stated = own is not None or "lora" in (settings or {}) or not isinstance(model, Model)
    lora = chosen.lora if stated else model.spec.lora
    _ = chosen.method(method, task)
    opened = model if isinstance(model, Model) else open_model(model, tokenizer, lora=lora, device=device)
    if own is not None and not opened.spec.id.startswith((LOCAL, MEMORY)):
        check_fits(own, opened.spec, None)
    if lora != opened.spec.lora:
        raise ValueError(f"The settings ask for {lora}, and the model was opened with {opened.spec.lora}.")
    with_form = chosen.over({"lora": dataclasses.asdict(lora)})
    spec = Planner(opened.spec, DataSource()).fit(method, task, seed, with_form)
    context = _context(Store(_temporary() if runs is None else Path(runs)), opened)
    context.adapter_path = None if own is None else own.path
    compute_fit(context, spec, "paper", Progress())
    return Fitted(Result(context.store, spec, _run(spec, with_form.method(method, task))), context)


def load_posterior(
    runs: Path | str,
    key: str,
    *,
    model: Base = None,
    tokenizer: Any = None,
    answers: Sequence[str] | None = None,
    method: str | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    device_map: DeviceMap | None = None,
) -> Fitted:
    """A stored fit or evaluation by the start of its key; the base is loaded at the first prediction.

    Args:
        model: the base, where it is a local folder or file, or was given in memory.
        method: predict with this method, which shares the fit (``ivon_mean`` on a fit of ``ivon``); by default the
            evaluation's, or the fit's own.
        settings: of that method's prediction, such as ``{"ivon": {"draws": 20}}``.
        answers: those of :func:`fit`, for a posterior that it stored in another process.
        device: where a base that is loaded is put.
        device_map: how it is spread over devices, as for :func:`open_model`.

    Raises:
        LookupError: there is no such key, or its task is not known here.
        ValueError: the model is not the one that the fit names.
    """
    result = open_result(Path(runs), key)
    task = result.fit.data.task
    recall(result.fit.data, key, answers)
    if method is not None:
        named = Settings(settings or {}).method(method, task)
        if (owner := _owner(method)) != result.fit.method:
            raise ValueError(f"'{method}' predicts with a fit of '{owner}', and {key} is one of '{result.fit.method}'.")
        result = Result(result.store, result.fit, _run(result.fit, named))
    return Fitted(result, _stored_context(result, model, tokenizer, device, device_map))


def predict(fitted: Fitted, prompts: Iterable[str | Example], *, batch_size: int = 32) -> Prediction:
    """Probabilities of the answers to N new prompts, with the method's own draws.

    Returns:
        ``probabilities`` (N, C), averaged over S draws, and ``log_probs`` (S, N, C); ``rows()`` has the answers.

    Raises:
        ValueError: there are no prompts, or one is not text.
    """
    found = as_questions(prompts, fitted.answers)
    load = fitted.context.prepared(fitted.result.fit, fitted.answers)
    return answer(fitted.result, found, load=load, batch_size=batch_size)


def evaluate(fitted: Fitted, examples: Iterable[Given], *, batch_size: int = 32) -> dict[str, float]:
    """Metrics on labelled examples: accuracy and ECE as shares, NLL in nats, Brier score."""
    found = as_examples(examples, fitted.answers)
    log_probs = predict(fitted, found, batch_size=batch_size).log_probs
    return score(log_probs, np.array([example.label for example in found], dtype=np.int64))


def _run(fit: FitSpec, method: Method) -> RunSpec:
    """The prediction of a method on the posterior of ``fit``; it is not stored."""
    options = method.options("predict")
    return RunSpec(fit=fit, method=method.name, version=method.version, options=options, data=fit.data, split="train")


def _owner(name: str) -> str:
    """The method whose fit a method predicts with: its own, or its base's that it borrows."""
    cls = get_method(name)
    return name if cls.own_fit() or cls.base is None else _owner(cls.base)


def _context(store: Store, model: Model) -> Context:
    context = Context(store=store, device=model.choice.device)
    context.use(model.spec, model.choice)
    return context


def _stored_context(result: Result, model: Base, tokenizer: Any, device: str, device_map: DeviceMap | None) -> Context:
    fit: FitSpec = result.fit
    if model is None or isinstance(model, str | Path):
        path = Path(model) if model is not None and is_local(Path(model)) else None
        if model is not None and path is None and str(model) != fit.model.id:
            raise ValueError(f"The model is {model}, and the fit was made on {fit.model.id}: give that one.")
        where = choose_device(device)
        return Context(store=result.store, model_path=path, device=where, device_map=device_map)
    opened = model
    if not isinstance(model, Model):
        form = fit.model
        spec, base = base_in_memory(model, tokenizer, form.lora, form.prompt, known=form.id)
        spec = dataclasses.replace(spec, packing=form.packing, shared_prefix=form.shared_prefix)
        opened = Model(spec, adapted(spec, base, next(model.parameters()).device))
    if opened.spec.id != fit.model.id:
        raise ValueError(f"The model is {opened.spec.id}, and the fit was made on {fit.model.id}: give that one.")
    if opened.spec != fit.model:
        ours, theirs = to_json(opened.spec), to_json(fit.model)
        name = next(name for name in {**theirs, **ours} if ours.get(name) != theirs.get(name))
        raise ValueError(
            f"The model was opened with {name} = {ours.get(name)}, and the fit has {theirs.get(name)}: open it with "
            "that."
        )
    return _context(result.store, opened)


def _temporary() -> Path:
    folder = tempfile.mkdtemp(prefix="bench-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
