"""One fit: from a spec and the posteriors it starts from to a stored posterior."""

from __future__ import annotations

import functools
import json
import math
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.data.identity import check_same_rows
from bench.method import FitJob, Method, PredictJob, get_method
from bench.metrics import score
from bench.model.choice_model import ChoiceModel
from bench.posterior import Point, Posterior
from bench.process.progress import Progress
from bench.run import codebase
from bench.run.context import Context, classes_of
from bench.run.outputs import as_predictions, checked, plain, printable
from bench.run.provenance import PeakMemory, utc_now
from bench.specs import FitSpec, key, seed_for
from bench.store.facts import Attempt, FitFacts, FitSeconds, Memory, TrainedOn
from bench.store.schema import check, load
from bench.task import get_task
from bench.train.checkpoint import Checkpointing
from bench.train.seeding import seed_global
from bench.train.trackers import Tracking


def fit(context: Context, spec: FitSpec, protocol: str, progress: Progress) -> Posterior:
    """The posterior of a fit: the stored one, or trained now.

    Raises:
        ChangedRows: the stored one, or another result of the store, was computed on other rows.
    """
    check_stored(context, spec)
    if not context.store.has(spec):
        starts = tuple(fit(context, base, protocol, progress) for base in spec.bases)
        train(context, spec, starts, protocol, progress)
    context.store.clear(spec)
    return context.store.posterior(spec)


def check_stored(context: Context, spec: FitSpec) -> None:
    """Refuse a stored fit, or one that this fit would start from, if it was trained on other rows.

    Where the rows cannot be had there is nothing to compare with.

    Raises:
        ChangedRows: it was.
    """
    if not context.store.has(spec):
        for base in spec.bases:
            check_stored(context, base)
        return
    try:
        rows = context.data.split(spec.data, "train")
    except (OSError, LookupError):
        return
    facts = context.store.fit_facts(spec)
    check_same_rows(rows, facts["examples"], f"The stored fit {key(spec)} ({spec.method})")


def train(context: Context, spec: FitSpec, starts: tuple[Posterior, ...], protocol: str, progress: Progress) -> None:
    """Fit, and store the posterior."""
    method = get_method(spec.method).make(spec.options)
    rows = context.data.split(spec.data, "train")
    context.seen.check(spec.data, "train", rows)
    examples = context.data.trained(spec)
    model = context.prepared(spec)
    length = spec.train.max_length

    def encode(examples: Any) -> Callable[[], Any]:
        return functools.lru_cache(maxsize=1)(lambda: model().encode(examples(), length))

    note = _attempts(context, spec)
    job = FitJob(
        spec=spec,
        load=model,
        encode=encode(lambda: examples),
        encode_tuning=encode(lambda: context.data.tuning(spec, protocol)) if method.tunes else None,
        starts=starts,
        read_adapter=context.read_adapter(model),
        checkpointing=Checkpointing(
            context.store.work(spec) / "checkpoint.safetensors",
            context.checkpoint_seconds,
            stop=context.stop,
            began=note,
            code=codebase.identity(classes_of(spec)),
        ),
        progress=progress,
        score=_watch(context, spec, method, protocol, model),
        eval_every=context.eval_every,
        graphs=context.graphs,
        compile=context.compile and not method.reads_maps,
        recompute=context.recompute and not method.reads_maps,
        planned_steps=context.planned_steps(spec),
        tracking=Tracking.open(context.track, context.store.root / "tracking", spec),
    )
    if method.uses_model:  # loading and tokenising are not the method's cost
        job.make_ready()
        prompts = [("training", job.data), *([("tuning", job.tuning)] if method.tunes else [])]
        job.warnings += [lost for use, data in prompts if (lost := data.loss_of_text(use, length))]
        for sentence in job.warnings:
            context.warn(spec, sentence)
    told = len(job.warnings)
    memory = PeakMemory(context.device)
    forwards = context.forwards(spec.model)
    with context.method_at_work(method):
        seed_global(seed_for(spec, "before"), context.device)
        job.generator.manual_seed(seed_for(spec, "noise before"))
        began = time.perf_counter()
        posterior = checked(method.fit(job), spec.method)
        passes = context.forwards(spec.model) - (job.model_forwards if job.trained else forwards)
        posterior_seconds = time.perf_counter() - (job.train_ended if job.trained else began)
    if not job.trained:
        note(0)
    if context.recompute and method.reads_maps and job.trained:
        job.warnings.append(
            f"{spec.method} hooks the adapters' maps, which must run once in a step: --gradient-checkpointing does not "
            "apply to it."
        )
    if context.compile and method.reads_maps and job.trained:
        job.warnings.append(
            f"{spec.method} hooks the adapters' maps, which compiled layers do not call: --compile does not apply to "
            "it."
        )
    diagnostics, odd = plain(job.facts, spec.method)
    job.warnings += odd
    for sentence in job.warnings[told:]:
        context.warn(spec, sentence)
    facts = FitFacts(
        steps=spec.train.steps if job.trained else 0,
        seconds=FitSeconds(train=job.train_seconds, posterior=posterior_seconds),
        seconds_per_step=job.train_seconds / spec.train.steps if job.trained else None,
        peak_memory_mib=load(Memory, memory.read()),
        forward_passes=job.forwards + passes,
        examples=TrainedOn(
            **rows.facts,
            held_out=len(rows.examples) - len(examples),
            truncated=job.data.truncated if method.uses_model else 0,
            cue_lost=job.data.cue_lost if method.uses_model else 0,
        ),
        attempts=_stored_attempts(context, spec),
        warnings=(*(model().warnings if method.uses_model else ()), *map(printable, job.warnings)),
        diagnostics=diagnostics,
        provenance=context.provenance(spec),
    )

    def write(folder: Path) -> None:
        posterior.save(folder / "posterior.safetensors")
        rows = ({name: value if math.isfinite(value) else None for name, value in row.items()} for row in job.trace)
        (folder / "trace.jsonl").write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))

    context.store.publish(spec, facts, write)


def _attempts(context: Context, spec: FitSpec) -> Callable[[int | None], None]:
    """Note this attempt now, and again with the first step that it takes."""
    name = f"{time.time_ns()}-{uuid.uuid4().hex[:8]}"
    about = context.attempt()

    def note(step: int | None) -> None:
        context.store.attempt(spec, name, {**about, "from_step": step, "time": utc_now()})

    note(None)
    return note


def _stored_attempts(context: Context, spec: FitSpec) -> tuple[Attempt, ...]:
    """Every attempt whose note can be read."""
    found = []
    for attempt in context.store.attempts(spec):
        try:
            check(Attempt, attempt)
        except ValueError:
            continue
        found.append(load(Attempt, attempt))
    return tuple(found)


def _watch(
    context: Context, spec: FitSpec, method: Method, protocol: str, model: Callable[[], ChoiceModel]
) -> Callable[[Posterior], dict[str, float]] | None:
    """Mid-run evaluation. A point is scored at its value, any other posterior by the method's own ``predict``."""
    if not context.eval_every or not method.uses_model:
        return None
    examples = context.data.watched(spec, protocol)
    encoded = model().encode(examples, spec.train.max_length)
    answers = get_task(spec.data.task).answers
    labels = np.array([example.label for example in examples], dtype=np.int64)

    def metrics(posterior: Posterior) -> dict[str, float]:
        job = PredictJob(
            posterior=posterior,
            examples=examples,
            answers=answers,
            generator=torch.Generator().manual_seed(seed_for(spec, "before")),
            batch_size=32,
            load=model,
            max_length=spec.train.max_length,
            _encoded=encoded,
        )
        at_point, began = isinstance(posterior, Point), time.perf_counter()
        log_probs = job.log_probs(posterior.mean).unsqueeze(0) if at_point else method.predict(job)
        context.watch_seconds += time.perf_counter() - began
        return score(as_predictions(log_probs, spec.method, len(examples), len(answers)), labels)

    return metrics
