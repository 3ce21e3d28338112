"""One evaluation: from a spec and its fit's posterior to stored predictions and metrics."""

from __future__ import annotations

import time

import numpy as np
import torch

from bench.data.batches import Encoded
from bench.method import Method, PredictJob, get_method
from bench.metrics import score
from bench.process.progress import Progress
from bench.run.context import Context, classes_of
from bench.run.fitting import check_stored, fit
from bench.run.outputs import as_predictions, remarks
from bench.run.provenance import PeakMemory
from bench.specs import RunSpec, key, seed_for
from bench.store.facts import Memory, RunFacts, RunSeconds, ScoredOn, used_fit
from bench.store.predictions import write_predictions
from bench.store.schema import load
from bench.task import get_task
from bench.train.diagnosis import blame_base
from bench.train.seeding import seed_global


def read(context: Context, run: RunSpec) -> Encoded | None:
    """The tokenised examples that a run scores, if its fit is missing, so that bad prompts are found before training.

    Raises:
        Exception: the examples, or the model, cannot be used for this run.
    """
    check_stored(context, run.fit)
    examples, split = context.data.scored(run)
    context.seen.check(run.data, run.split, split)
    method = get_method(run.method)
    if not method.uses_model or context.store.has(run.fit):
        return None
    model = context.prepared(run.fit)()
    if any(cls.reads_maps for cls in classes_of(run) if issubclass(cls, Method)):
        model.check_maps()
    encoded = model.encode(examples, run.fit.train.max_length)
    _tell_cut(context, run, encoded)
    return encoded


def evaluate(context: Context, run: RunSpec, encoded: Encoded | None, progress: Progress) -> None:
    """Predict, score and store; the fit is made if it is missing. ``encoded`` is what :func:`read` returned."""
    fit_options = run.fit.options if run.fit.method == run.method else {}
    method = get_method(run.method).make({**fit_options, **run.options})
    posterior = fit(context, run.fit, run.protocol, progress)
    examples, split = context.data.scored(run)
    task = get_task(run.data.task)
    progress.start(f"predict {run.method}", 0)
    job = PredictJob(
        posterior=posterior,
        examples=examples,
        answers=task.answers,
        generator=torch.Generator().manual_seed(seed_for(run, "predict")),
        batch_size=run.batch_size,
        load=context.prepared(run.fit, task.answers),
        max_length=run.fit.train.max_length,
        progress=progress.advance,
        _encoded=encoded,
        batch_tokens=run.batch_tokens,
    )
    if method.uses_model:
        job.make_ready()
        if encoded is None:
            _tell_cut(context, run, job.encoded)
    memory = PeakMemory(context.device)
    forwards = context.forwards(run.fit.model)
    try:
        with context.method_at_work(method):
            seed_global(seed_for(run, "noise of layers"), context.device)
            began = time.perf_counter()
            log_probs = as_predictions(method.predict(job), run.method, len(examples), len(task.answers))
            seconds = time.perf_counter() - began
    except FloatingPointError:
        if method.uses_model:
            batches = job.encoded.in_order(run.batch_size, run.batch_tokens)
            blame_base(job.model, run.fit, task.answers, (batch for _, batch in batches))
        raise
    progress.finish()
    warnings = remarks(log_probs)
    for sentence in warnings:
        context.warn(run, sentence)
    labels = np.array([example.label for example in examples], dtype=np.int64)
    truth = None
    if all(example.truth is not None for example in examples):
        truth = np.log(np.array([example.truth for example in examples], dtype=np.float64))
    used = used_fit(key(run.fit), context.store.fit_facts(run.fit))
    facts = RunFacts(
        title=method.title,
        metrics=score(log_probs, labels, truth),
        draws=log_probs.shape[0],
        examples=ScoredOn(
            **split.facts,
            scored=len(examples),
            truncated=job.encoded.truncated if method.uses_model else 0,
            cue_lost=job.encoded.cue_lost if method.uses_model else 0,
        ),
        seconds=RunSeconds(predict=seconds),
        peak_memory_mib=load(Memory, memory.read()),
        forward_passes=context.forwards(run.fit.model) - forwards,
        fit=used,
        attempt=context.this_attempt(),
        partial_data=split.facts["partial"] or used.examples.partial,
        warnings=tuple(warnings),
        provenance=context.provenance(run),
    )
    ids = tuple(example.id for example in examples)
    context.store.publish(
        run,
        facts,
        lambda folder: write_predictions(folder / "predictions.safetensors", log_probs, labels, ids, truth),
    )


def _tell_cut(context: Context, run: RunSpec, encoded: Encoded) -> None:
    if lost := encoded.loss_of_text("scored", run.fit.train.max_length):
        context.warn(run, lost)
