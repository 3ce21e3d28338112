"""The training loop that every method shares: same batches, same clock, same checkpoints.

All randomness of step t is seeded from (spec, t). So a resumed run repeats what it would have done, mid-run evaluation
cannot consume the training's random numbers, and two methods drop the same units at the same step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from bench.data.batches import Batch, Encoded
from bench.metrics import score
from bench.model.choice_model import ChoiceModel
from bench.posterior import Params, Posterior
from bench.process.progress import Progress
from bench.process.stop import Stopped
from bench.specs import FitSpec, digest, key, seed_for
from bench.train.graphs import CudaRecorder, GraphedLoss
from bench.train.tree import load_tree, save_tree

TRACE_POINTS = 100  # losses kept per training, evenly spaced


class Stateful(Protocol):
    """Anything a method keeps between steps and wants in the checkpoint: a collector of samples, moments, ..."""

    def state_dict(self) -> dict[str, Any]:
        """Nested dicts and lists of tensors and plain values."""

    def load_state_dict(self, state: Any) -> None:
        """Take back what :meth:`state_dict` gave."""


class Snapshots:
    """A list of adapter values collected during training; checkpointed with it."""

    def __init__(self) -> None:
        self.values: list[Params] = []

    def add(self, params: Params) -> None:
        """Keep a copy of ``params`` as they are now."""
        self.values.append({name: value.detach().clone() for name, value in params.items()})

    def state_dict(self) -> dict[str, Any]:
        return {"values": [dict(value) for value in self.values]}

    def load_state_dict(self, state: Any) -> None:
        self.values = list(state["values"])


def linear_to_zero(progress: float) -> float:
    """Learning-rate factor 1 - t/T (PROTOCOL: paper; no warm-up). ``progress`` is t/T in [0, 1)."""
    return 1.0 - progress


def constant(progress: float) -> float:
    """Learning-rate factor 1."""
    return 1.0


def seed_global(seed: int, device: torch.device) -> None:
    """Seed the global streams that dropout draws from.

    ``torch.manual_seed`` would queue a call, with a traceback, for every kind of accelerator that is not in use yet: at
    every step, and for good.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


class Clock:
    """Seconds of training; stopped while the run evaluates, logs or writes checkpoints."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device = device
        self._since: float | None = None

    def start(self) -> None:
        """Let it run."""
        self._since = time.perf_counter()

    def stop(self) -> float:
        """Stop it, once the device has finished its work, and return the seconds so far."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
        self._since = None
        return self.seconds


@dataclasses.dataclass
class Checkpointing:
    """Where a training keeps its checkpoint, how often, and what to do when asked to stop between two steps.

    Attributes:
        stop: why to stop, as soon as there is a reason; then a last checkpoint is written and ``Stopped`` raised.
        began: told the first step that this process takes, 0 or that of the checkpoint.
    """

    file: Path
    every_seconds: float = 30.0
    warn: Callable[[str], None] = print
    stop: Callable[[], str] = lambda: ""
    began: Callable[[int], None] = lambda step: None

    def save(self, tree: Any) -> None:
        """Replace the checkpoint in one step, so a kill leaves the old one or the new one."""
        new = self.file.with_suffix(f".{uuid.uuid4().hex[:8]}.new")  # its own name: a stalled process may wake up
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_tree(tree, new)
            with new.open("rb") as stream:
                os.fsync(stream.fileno())
            new.replace(self.file)
        finally:
            new.unlink(missing_ok=True)

    def load(self, device: torch.device) -> Any | None:
        """The last checkpoint, or None when there is none or it is damaged (then training starts again)."""
        if not self.file.exists():
            return None
        try:
            return load_tree(self.file, device)
        except Exception as error:  # whatever is wrong with the file, training can start again without it
            self.warn(f"{self.file} is damaged ({type(error).__name__}: {error}); training starts from step 0.")
            return None


@dataclasses.dataclass
class FitJob:
    """What :meth:`bench.method.Method.fit` is handed.

    Attributes:
        spec: the fit's spec; ``spec.train`` holds the shared training settings.
        model: the language model with the task's answers and fresh adapters (B = 0).
        data: the N training examples, tokenised.
        starts: the posteriors of ``spec.bases``, in order.
        generator: CPU generator, seeded anew for every step (stream "train"): draw a method's noise from it.
        tuning: examples that neither this fit's base has seen nor the protocol reports; for a method that ``tunes``.
        facts: anything a method adds here is stored in the fit's ``facts.json``.
        warnings: sentences that are shown, and stored with the fit.
    """

    spec: FitSpec
    load: Callable[[], ChoiceModel]
    encode: Callable[[], Encoded]
    checkpointing: Checkpointing
    encode_tuning: Callable[[], Encoded] | None = None
    starts: tuple[Posterior, ...] = ()
    progress: Progress = dataclasses.field(default_factory=Progress)
    watch: Encoded | None = None  # examples for mid-run evaluation
    eval_every: int = 0  # steps between mid-run evaluations; 0 for none
    graphs: bool = False  # replay forward and backward passes as CUDA graphs, where a step is one pass of the loss
    generator: torch.Generator = dataclasses.field(default_factory=torch.Generator)
    trace: list[dict[str, float]] = dataclasses.field(default_factory=list)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)
    train_seconds: float = 0.0
    trained: bool = False
    train_ended: float = 0.0  # time.perf_counter() when the training was done: what follows is the posterior's cost
    forwards: int = 0  # examples passed forward by the steps of the training, mid-run evaluation not counted

    @property
    def model(self) -> ChoiceModel:
        """The language model."""
        return self.load()

    @property
    def data(self) -> Encoded:
        """The training examples."""
        return self.encode()

    @property
    def tuning(self) -> Encoded:
        """The tuning examples."""
        if self.encode_tuning is None:
            raise RuntimeError(f"Method '{self.spec.method}' reads job.tuning: set `tunes = True` on its class.")
        return self.encode_tuning()

    def make_ready(self) -> None:
        """Load the model and tokenise all examples now, rather than at first use."""
        self.load()
        self.encode()
        if self.encode_tuning is not None:
            self.encode_tuning()

    def loss(self, batch: Batch, params: Params | None = None) -> Tensor:
        """Mean cross-entropy of the answers over the batch, at the adapters or at ``params``."""
        return torch.nn.functional.cross_entropy(self.model.logits(batch, params), batch.labels)

    def train(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        schedule: Callable[[float], float] = linear_to_zero,
        loss: Callable[[Batch], Tensor] | None = None,
        perturb: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
        draws: int = 1,
        after_step: Callable[[int], None] | None = None,
        state: Mapping[str, Stateful] | None = None,
        mean: Callable[[], Params] | None = None,
        diagnose: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        """Take ``spec.train.steps`` optimizer steps, with adapter dropout on, checkpointing as it goes.

        Args:
            optimizer: over any tensors; each group's learning rate is multiplied by ``schedule(t / T)``.
            loss: the objective of one micro-batch, a mean over its examples; default: :meth:`loss`.
            perturb: a context around each forward and backward pass (a posterior draw, for IVON).
            draws: passes per step, each in a ``perturb`` of its own; their gradients are averaged.
            after_step: called with the number of steps done; collect samples here, into something in ``state``.
            state: what must survive a kill besides the optimizer and its parameters.
            mean: the adapters that mid-run evaluation uses; default: the model's own.
            diagnose: numbers to put beside the loss in the trace.

        Raises:
            FloatingPointError: the loss became NaN or infinite.
            Stopped: it was asked to stop, and left a checkpoint.
        """
        settings = self.spec.train
        self.forwards = settings.steps * settings.batch_size * draws
        objective = loss or self.loss
        extras = dict(state or {})
        if self.trained:
            raise RuntimeError("job.train() was called twice in one fit: one training has one checkpoint.")
        self.trained = True
        peaks = [group["lr"] for group in optimizer.param_groups]
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        clock = Clock(self.model.device)
        stream = seed_for(self.spec, "train")
        log_every = max(1, settings.steps // TRACE_POINTS)
        start, running = self._resume(optimizer, parameters, extras, clock)
        groups = optimizer.param_groups  # only now: load_state_dict replaces the list
        batches = self.data.shuffled(settings.batch_size, seed_for(self.spec, "data"), start)
        saved_at = time.monotonic()
        self.progress.start("train", settings.steps, done=start)
        if start == 0:
            self._evaluate(0, clock, mean)
        graphed = None
        if self.graphs and draws == settings.micro_batches == 1 and loss is None:
            graphed = GraphedLoss(objective, parameters, CudaRecorder())
        clock.start()
        with self.model.dropout():
            for step in range(start, settings.steps):
                seed = digest(stream, step)
                seed_global(seed, self.model.device)
                self.generator.manual_seed(seed)
                factor = schedule(step / settings.steps)
                for group, peak in zip(groups, peaks, strict=True):
                    group["lr"] = peak * factor
                optimizer.zero_grad()
                batch = next(batches)
                for _ in range(draws):
                    with perturb():
                        if graphed is not None:
                            running = running + graphed(batch)
                            continue
                        for piece in batch.split(settings.micro_batches):
                            value = objective(piece) * (len(piece) / (len(batch) * draws))
                            value.backward()  # type: ignore[no-untyped-call]
                            running = running + value.detach()
                if settings.clip_norm:
                    torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
                optimizer.step()
                done = step + 1
                if after_step is not None:
                    after_step(done)
                if done % log_every == 0 or done == settings.steps:
                    clock.stop()
                    self._log(done, done - (step // log_every) * log_every, running, clock, groups, diagnose)
                    running = torch.zeros_like(running)
                    clock.start()
                if self._due(done):
                    clock.stop()
                    self._evaluate(done, clock, mean)
                    clock.start()
                self.progress.step(done)
                if done == settings.steps:
                    break
                reason = self.checkpointing.stop()
                if reason or time.monotonic() - saved_at >= self.checkpointing.every_seconds:
                    clock.stop()
                    self._save(done, optimizer, parameters, extras, clock, running)
                    if reason:
                        raise Stopped(f"{reason}: stopped after step {done}")
                    saved_at = time.monotonic()
                    clock.start()
        self.train_seconds += clock.stop()
        if graphed is not None:
            self.facts["graphs"] = len(graphed)
        self.progress.finish()
        self.train_ended = time.perf_counter()

    def _due(self, done: int) -> bool:
        return self.eval_every > 0 and (done % self.eval_every == 0 or done == self.spec.train.steps)

    def _log(
        self,
        done: int,
        count: int,
        running: Tensor,
        clock: Clock,
        groups: list[dict[str, Any]],
        diagnose: Callable[[], Mapping[str, float]] | None,
    ) -> None:
        loss = float(running) / count
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"The training loss is {loss} near step {done} of {self.spec.method} on {self.spec.data.task}: "
                "lower the learning rate, or set clip_norm."
            )
        row = {"step": done, "seconds": clock.seconds, "loss": loss, "lr": groups[0]["lr"]}
        row.update(diagnose() if diagnose is not None else {})
        self.trace.append(row)

    @torch.no_grad()
    def _evaluate(self, done: int, clock: Clock, mean: Callable[[], Params] | None) -> None:
        """Score the current mean on the watched examples. The clock is stopped, and dropout is off."""
        if self.watch is None or (done == 0 and self.eval_every == 0):
            return
        params = mean() if mean is not None else self.model.params
        with self.model.dropout(False), self.model.assign(params):
            pairs = [(rows, self.model.logits(batch).double()) for rows, batch in self.watch.in_order(32)]
        labels = torch.tensor([self.watch.examples[row].label for rows, _ in pairs for row in rows])
        log_probs = torch.cat([logits for _, logits in pairs]).log_softmax(-1).cpu()
        metrics = score(log_probs.unsqueeze(0).numpy(), labels.numpy())
        self.trace.append({"step": done, "seconds": clock.seconds, **metrics})

    def _save(
        self,
        done: int,
        optimizer: torch.optim.Optimizer,
        parameters: list[Tensor],
        extras: Mapping[str, Stateful],
        clock: Clock,
        running: Tensor,
    ) -> None:
        self.checkpointing.save(
            {
                "fit": key(self.spec),
                "step": done,
                "seconds": clock.seconds,
                "trace": json.dumps(self.trace),
                "running": running,
                "optimizer": optimizer.state_dict(),
                "parameters": parameters,
                "adapters": dict(self.model.params),
                "extras": {name: item.state_dict() for name, item in extras.items()},
            }
        )

    def _resume(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: list[Tensor],
        extras: Mapping[str, Stateful],
        clock: Clock,
    ) -> tuple[int, Tensor]:
        """(first step to take, loss summed since the last trace point)."""
        tree = self.checkpointing.load(self.model.device)
        if tree is not None and (not isinstance(tree, dict) or tree.get("fit") != key(self.spec)):
            self.checkpointing.warn(f"{self.checkpointing.file} is of another fit; training starts from step 0.")
            tree = None
        if tree is None:
            self.checkpointing.began(0)
            return 0, torch.zeros((), device=self.model.device)
        try:
            self.model.load(tree["adapters"])
            with torch.no_grad():
                for parameter, value in zip(parameters, tree["parameters"], strict=True):
                    if value.shape != parameter.shape:  # copy_ would repeat a value to fit
                        raise ValueError(f"a parameter of shape {tuple(value.shape)}, not {tuple(parameter.shape)}")
                    parameter.copy_(value)
            optimizer.load_state_dict(tree["optimizer"])
            for name, item in extras.items():
                item.load_state_dict(tree["extras"][name])
            step, running = int(tree["step"]), tree["running"]
            clock.seconds = tree["seconds"]
            self.trace[:] = json.loads(tree["trace"])
        except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{self.checkpointing.file} does not fit this training ({error}); the method's code has changed since "
                "it was written. Delete that file to start again, and raise the method's `version`."
            ) from error
        self.checkpointing.began(step)
        return step, running
