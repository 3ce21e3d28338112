"""Runs a family: its fits, each once, then every evaluation that hangs from them. Knows no method by name."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.data.batches import Encoded
from bench.data.identity import check_same_rows, load_planned
from bench.data.protocol import HOLDOUT
from bench.data.splits import DataSource, Split, split_holdout
from bench.errors import ModelNotUsable
from bench.method import Method, PredictJob, get_method
from bench.metrics import score
from bench.model.choice_model import ChoiceModel, load_model
from bench.posterior import Point, Posterior
from bench.process.claim import claim
from bench.process.holder import SECONDS, Worker, mentioned
from bench.process.progress import Progress
from bench.run.provenance import PeakMemory, device_name, provenance, utc_now
from bench.run.reporter import Reporter
from bench.specs import DataSpec, Family, FitSpec, ModelSpec, RunSpec, key, seed_for
from bench.store.files import NoRoom, UnreadableRecord, no_room
from bench.store.predictions import write_predictions
from bench.store.records import RunRecord
from bench.store.store import Store
from bench.task import get_task
from bench.train.checkpoint import Checkpointing
from bench.train.loop import FitJob
from bench.train.seeding import seed_global

NOT_CUT = {"truncated": 0, "cue_lost": 0}  # of a method that reads no prompt
SUM_TOLERANCE = 1e-3  # of the probabilities of one prediction, which float32 keeps to 1e-6


@dataclasses.dataclass
class Runner:
    """Everything a run needs that is not part of what it is.

    Attributes:
        store: where results go.
        source: where rows come from.
        model_path: folder of a local model, or None.
        device: where to compute.
        eval_every: steps between mid-run evaluations (0: none). It changes nothing but the trace.
        graphs: train with CUDA graphs (bench.train.graphs). Same results up to rounding.
        checkpoint_seconds: least time between checkpoints.
        log: takes one line of text for the user.
        worker: who computes, for claims and records.
        claim_seconds: the life of a claim without a heartbeat.
        stop: why to stop, as soon as there is a reason; "" until then.
    """

    store: Store
    source: DataSource = dataclasses.field(default_factory=DataSource)
    model_path: Path | None = None
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    eval_every: int = 0
    graphs: bool = False
    checkpoint_seconds: float = 30.0
    log: Callable[[str], None] = print
    worker: Worker = dataclasses.field(default_factory=Worker)
    claim_seconds: float = SECONDS
    stop: Callable[[], str] = lambda: ""
    _model: tuple[ModelSpec, ChoiceModel] | None = None

    def run(self, family: Family, progress: Progress | None = None, wait: bool = True) -> list[RunRecord]:
        """Compute what is missing of a family and return all its records.

        An evaluation that fails does not stop the others; a fit that fails stops those that need it. While another
        process is at work on the family, this one waits for it, or leaves it alone without ``wait``.

        Raises:
            Exception: the first thing that went wrong, after each was recorded under ``failures/``.
            Held: another process is at work on it.
            Lost: another process took the claim.
            Stopped: this one was asked to stop.
        """
        if len(self.store.complete(family.runs)) == len(family.runs):
            return [self.store.record(run) for run in family.runs]
        with claim(
            self.store.claim_file(family.key),
            self.worker,
            seconds=self.claim_seconds,
            wait=wait,
            about={"label": family.label, "runs": mentioned(map(key, family.runs))},
            stop=self.stop,
        ) as held:
            return self._run(family, Reporter(progress or Progress(), held, family, self.stop))

    def _run(self, family: Family, progress: Reporter) -> list[RunRecord]:
        records, errors, failed = [], list[BaseException](), dict[str, BaseException]()
        for run in family.runs:
            if key(run.fit) in failed:
                self._record(run, failed[key(run.fit)])
                continue
            readable = None
            try:
                if not self.store.has(run):
                    progress.check()
                    readable = self._readable(run)
                    self._evaluate(run, *readable, progress)
                records.append(self.store.record(run))
            except UnreadableRecord as error:  # a fault of permissions or of the file system, not of the method
                errors.append(error)
            except (Exception, SystemExit) as error:
                if why := no_room(error):
                    raise NoRoom(why) from error
                errors.append(error)
                self._record(run, error)
                if (readable or isinstance(error, ModelNotUsable)) and not self.store.folder(run.fit).exists():
                    failed[key(run.fit)] = error
        if errors:
            raise errors[0]
        return records

    def _record(self, run: RunSpec, error: BaseException) -> None:
        try:
            self.store.fail(run, error, self._attempt())
        except OSError as full:  # a full or read-only disk, most likely what went wrong in the first place
            self.log(f"warning: the failure of {run.method} could not be recorded ({full})")

    def fit(self, spec: FitSpec, progress: Progress) -> Posterior:
        """The posterior of a fit: the stored one, or trained now."""
        if not self.store.has(spec):
            starts = tuple(self.fit(base, progress) for base in spec.bases)
            self._train(spec, starts, progress)
        else:
            self._check_borrowed(spec)
        self.store.clear(spec)
        return self.store.posterior(spec)

    def _rows(self, data: DataSpec, split: str) -> Split:
        """A split of the data that a spec names."""
        return load_planned(data, split, get_task(data.task), self.source)

    def _check_borrowed(self, fit: FitSpec) -> None:
        """Refuse a stored fit that was trained on other rows, as far as those can be had."""
        try:
            train = self._rows(fit.data, "train")
        except (OSError, LookupError):
            return  # nothing to compare with
        check_same_rows(train, self.store.fit_facts(fit)["examples"], f"The stored fit {key(fit)} ({fit.method})")

    def _attempt(self) -> dict[str, Any]:
        """This process, as records show it."""
        return {**self.worker.describe(), "device": device_name(self.device)}

    def _train(self, spec: FitSpec, starts: tuple[Posterior, ...], progress: Progress) -> None:
        method = get_method(spec.method).make(spec.options)
        train = self._rows(spec.data, "train")
        kept, held = split_holdout(train.examples, spec.reserved, seed_for(spec, "holdout"))
        load = self._prepared(spec)
        name = f"{time.time_ns()}-{uuid.uuid4().hex[:8]}"
        self._began(spec, name, 0)
        encode = _once(lambda: load().encode(kept, spec.train.max_length))
        job = FitJob(
            spec=spec,
            load=load,
            encode=encode,
            encode_tuning=_once(lambda: load().encode(self._tuning(spec), spec.train.max_length))
            if method.tunes
            else None,
            starts=starts,
            checkpointing=Checkpointing(
                self.store.work(spec) / "checkpoint.safetensors",
                self.checkpoint_seconds,
                stop=self.stop,
                began=lambda step: self._began(spec, name, step),
            ),
            progress=progress,
            score=self._watched(spec, method, held, load),
            eval_every=self.eval_every,
            graphs=self.graphs,
        )
        if method.uses_model:  # loading and tokenising are not the method's cost
            job.make_ready()
            job.warnings += self._cut("training", job.data, spec)
            job.warnings += self._cut("tuning", job.tuning, spec) if method.tunes else []
        told = len(job.warnings)
        memory = PeakMemory(self.device)
        forwards = self._forwards(spec.model)
        began = time.perf_counter()
        posterior = checked(method.fit(job), spec.method)
        posterior_seconds = time.perf_counter() - (job.train_ended if job.trained else began)
        for sentence in job.warnings[told:]:
            self.log(f"warning: {spec.method} on {spec.data.task}, seed {spec.seed}: {sentence}")
        train_seconds = job.train_seconds
        facts = {
            "status": "done",
            "steps": spec.train.steps if job.trained else 0,
            "seconds": {"train": train_seconds, "posterior": posterior_seconds},
            "seconds_per_step": train_seconds / spec.train.steps if job.trained else None,
            "peak_memory_mib": memory.read(),
            "forward_passes": job.forwards if job.trained else self._forwards(spec.model) - forwards,
            "examples": {**train.facts, "held_out": len(held), **(job.data.facts if method.uses_model else NOT_CUT)},
            "attempts": self.store.attempts(spec),
            "diagnostics": job.facts,
            "warnings": [*(load().warnings if method.uses_model else ()), *job.warnings],
            "provenance": provenance(self.device, self.source),
        }

        def write(folder: Path) -> None:
            posterior.save(folder / "posterior.safetensors")
            lines = [json.dumps(row, sort_keys=True) + "\n" for row in job.trace]
            (folder / "trace.jsonl").write_text("".join(lines))

        self.store.publish(spec, facts, write)

    def _cut(self, use: str, data: Encoded, spec: FitSpec | RunSpec) -> list[str]:
        """Say what truncation took from prompts, and return the sentence; [] if it took nothing."""
        fit = spec.fit if isinstance(spec, RunSpec) else spec
        lost = data.loss_of_text(use, fit.train.max_length)
        if lost:
            self.log(f"warning: {spec.method} on {spec.data.task}, seed {fit.seed}: {lost}")
        return [lost] if lost else []

    def _began(self, spec: FitSpec, name: str, step: int) -> None:
        self.store.attempt(spec, name, {**self._attempt(), "from_step": step, "time": utc_now()})

    def _tuning(self, spec: FitSpec) -> tuple[Any, ...]:
        """What a fit may tune on: the part of train that its base left and it need not; else validation.

        The plan sees to it that validation is only asked for where the protocol leaves it for tuning.
        """
        share, seed = spec.reserved, seed_for(spec, "holdout")
        if share == spec.holdout:
            return self._rows(spec.data, "validation").examples
        train = self._rows(spec.data, "train").examples
        left, scored = (split_holdout(train, part, seed)[1] for part in (share, spec.holdout))
        taken = {example.id for example in scored}
        return tuple(example for example in left if example.id not in taken)

    def _watched(
        self, spec: FitSpec, method: Method, held: tuple[Any, ...], load: Callable[[], ChoiceModel]
    ) -> Callable[[Posterior], dict[str, float]] | None:
        """Mid-run evaluation: on validation where there is one, else on what was held out of train.

        A point is scored at its value, any other posterior by the method's own ``predict``.
        """
        if not self.eval_every or not method.uses_model:
            return None
        examples = held
        if not held and "validation" in get_task(spec.data.task).rows:
            examples = self._rows(spec.data, "validation").examples
        if not examples:
            return None
        task = get_task(spec.data.task)
        encoded = load().encode(examples, spec.train.max_length)
        labels = np.array([example.label for example in examples], dtype=np.int64)

        def metrics(posterior: Posterior) -> dict[str, float]:
            job = PredictJob(
                posterior=posterior,
                examples=examples,
                answers=task.answers,
                generator=torch.Generator().manual_seed(seed_for(spec, "train")),
                batch_size=32,
                load=load,
                max_length=spec.train.max_length,
                _encoded=encoded,
            )
            at_mean = isinstance(posterior, Point)
            log_probs = job.log_probs(posterior.mean).unsqueeze(0) if at_mean else method.predict(job)
            return score(as_predictions(log_probs, spec.method, len(examples), len(task.answers)), labels)

        return metrics

    def _readable(self, run: RunSpec) -> tuple[Split, Encoded | None]:
        """What a run is scored on, tokenised if its fit is missing: no training is worth a prompt that does not fit."""
        examples, split = self._examples(run)
        if not get_method(run.method).uses_model or self.store.has(run.fit):
            return split, None
        model = self._prepared(run.fit)()
        if get_method(run.method).reads_maps:
            model.check_maps()
        encoded = model.encode(examples, run.fit.train.max_length)
        self._cut("scored", encoded, run)
        return split, encoded

    def _evaluate(self, run: RunSpec, split: Split, encoded: Encoded | None, progress: Progress) -> None:
        fit_options = run.fit.options if run.fit.method == run.method else {}
        method = get_method(run.method).make({**fit_options, **run.options})
        posterior = self.fit(run.fit, progress)
        examples = self._examples(run)[0]
        task = get_task(run.data.task)
        progress.start(f"predict {run.method}", 0)
        job = PredictJob(
            posterior=posterior,
            examples=examples,
            answers=task.answers,
            generator=torch.Generator().manual_seed(seed_for(run, "predict")),
            batch_size=run.batch_size,
            load=self._prepared(run.fit, task.answers),
            max_length=run.fit.train.max_length,
            progress=progress.advance,
            _encoded=encoded,
        )
        if method.uses_model:
            job.make_ready()
            if encoded is None:
                self._cut("scored", job.encoded, run)
        seed_global(seed_for(run, "predict"), self.device)
        memory = PeakMemory(self.device)
        forwards = self._forwards(run.fit.model)
        began = time.perf_counter()
        log_probs = as_predictions(method.predict(job), run.method, len(examples), len(task.answers))
        seconds = time.perf_counter() - began
        progress.finish()
        labels = np.array([example.label for example in examples], dtype=np.int64)
        truth = None
        if all(example.truth is not None for example in examples):
            truth = np.log(np.array([example.truth for example in examples], dtype=np.float64))
        metrics = score(log_probs, labels, truth)
        fit = self.store.fit_facts(run.fit)
        facts = {
            "status": "done",
            "title": method.title,
            "metrics": metrics,
            "draws": log_probs.shape[0],
            "examples": {
                **split.facts,
                "scored": len(examples),
                **(job.encoded.facts if method.uses_model else NOT_CUT),
            },
            "seconds": {"predict": seconds},
            "peak_memory_mib": memory.read(),
            "forward_passes": self._forwards(run.fit.model) - forwards,
            "fit": {
                "key": key(run.fit),
                "forward_passes": fit.get("forward_passes"),  # None: not counted
                **{
                    name: fit[name]
                    for name in (
                        "steps",
                        "seconds",
                        "seconds_per_step",
                        "peak_memory_mib",
                        "examples",
                        "warnings",
                        "attempts",
                    )
                },
            },
            "attempt": self._attempt(),
            "partial_data": split.facts["partial"] or fit["examples"]["partial"],
            "provenance": provenance(self.device, self.source),
        }
        ids = tuple(example.id for example in examples)
        self.store.publish(
            run,
            facts,
            lambda folder: write_predictions(folder / "predictions.safetensors", log_probs, labels, ids, truth),
        )

    def _forwards(self, model: ModelSpec) -> int:
        """Examples that the model has passed forward so far; 0 while it is not loaded."""
        return self._model[1].forwards if self._model is not None and self._model[0] == model else 0

    def _examples(self, run: RunSpec) -> tuple[tuple[Any, ...], Split]:
        """The examples a run is scored on, and the split they come from."""
        if run.split != HOLDOUT:
            split = self._rows(run.data, run.split)
            return split.examples, split
        split = self._rows(run.data, "train")
        held = split_holdout(split.examples, run.fit.holdout, seed_for(run.fit, "holdout"))[1]
        return held, split

    def _prepared(self, spec: FitSpec, answers: tuple[str, ...] | None = None) -> Callable[[], ChoiceModel]:
        """The model with fresh adapters and a task's answers, made ready at the first call."""

        def make() -> ChoiceModel:
            if self._model is None or self._model[0] != spec.model:
                self._model = None  # free the old base before the new one is loaded
                self._model = (spec.model, load_model(spec.model, self.model_path, self.device))
                for sentence in self._model[1].warnings:
                    self.log(f"warning: {sentence}")
            model = self._model[1]
            model.prepare(answers or get_task(spec.data.task).answers, seed_for(spec, "init"))
            return model

        return _once(make)


def checked(posterior: Any, method: str) -> Posterior:
    """What a fit returned, if it is a posterior and finite: a stored one is never fitted again."""
    if not isinstance(posterior, Posterior):
        raise TypeError(
            f"{method}.fit returned a {type(posterior).__name__}: return a Posterior, such as "
            "Point(job.model.snapshot())."
        )
    for field in dataclasses.fields(posterior):  # type: ignore[arg-type]
        for name, value in getattr(posterior, field.name).items():
            if not torch.isfinite(value).all():
                raise FloatingPointError(
                    f"The {field.name} of '{name}' in the posterior of {method} has values that are not finite: lower "
                    "the learning rate, or set clip_norm."
                )
    return posterior


def as_predictions(found: Any, method: str, examples: int, answers: int) -> np.ndarray[Any, Any]:
    """What a method predicted, as (S, N, C) float32, checked: finite log-probabilities that sum to one."""
    if not isinstance(found, torch.Tensor):
        raise TypeError(f"{method}.predict returned a {type(found).__name__}: return a tensor of log-probabilities.")
    if found.ndim != 3 or found.shape[1:] != (examples, answers):
        raise ValueError(
            f"{method}.predict returned shape {tuple(found.shape)}; it should be (draws, {examples}, {answers})."
        )
    log_probs: np.ndarray[Any, Any] = found.detach().float().cpu().contiguous().numpy()
    if not np.isfinite(log_probs).all():
        raise FloatingPointError(f"{method} predicted a probability that is zero or not a number.")
    sums = np.exp(log_probs.astype(np.float64)).sum(-1)
    if (np.abs(sums - 1) > SUM_TOLERANCE).any():
        worst = float(sums.flat[np.abs(sums - 1).argmax()])
        raise ValueError(
            f"{method}.predict returned rows whose probabilities sum to {worst:.4g}, not to one: return normalised "
            "log-probabilities in float32 (bench.method.log_softmax makes them from logits)."
        )
    return log_probs


def _once(make: Callable[[], Any]) -> Callable[[], Any]:
    return functools.lru_cache(maxsize=1)(make)
