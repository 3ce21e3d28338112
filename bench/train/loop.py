"""The training loop that every method shares: same batches, same clock, same checkpoints.

All randomness of step t is seeded from (spec, t). So a resumed run repeats what it would have done, mid-run evaluation
cannot consume the training's random numbers, and two methods drop the same units at the same step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.data.batches import Batch, Encoded
from bench.model.choice_model import ChoiceModel
from bench.model.forward.compiled import Compiled
from bench.model.own_adapter import no_adapter
from bench.posterior import Params, Point, Posterior
from bench.process.progress import Progress
from bench.process.stop import Stopped
from bench.specs import FitSpec, digest, key, seed_for
from bench.task import get_task
from bench.train.checkpoint import Checkpointing, Stateful, TrainState, check_state
from bench.train.clock import Clock
from bench.train.diagnosis import blame_base, diverged
from bench.train.graphs import CudaRecorder, GraphedLoss
from bench.train.replay import ReplayedLoss, pays
from bench.train.schedules import Rates, Schedule, linear_to_zero
from bench.train.seeding import seed_global
from bench.train.trackers import Tracking

STILL = 1e-12  # change of a sum over a parameter that is no movement: float32 logits do not show it
TRACE_POINTS = 100  # losses kept per training, evenly spaced


@dataclasses.dataclass
class FitJob:
    """Argument of :meth:`bench.method.Method.fit`.

    Attributes:
        spec: the fit's spec; ``spec.train`` holds the shared training settings.
        model: the language model with the task's answers and fresh adapters (B = 0).
        data: the N training examples, tokenised.
        starts: the posteriors of ``spec.bases``, in order.
        read_adapter: the values of the user's adapter (``--adapter``), given the hash of its content; for a method that
            ``reads_adapter``.
        generator: CPU generator, seeded for every step: draw a method's noise from it, or from ``device_generator``
            where there is much. Within a step torch's global CPU generator begins with the same seed, so noise drawn
            from both would be equal: draw from this one alone.
        tuning: examples that neither this fit's base has seen nor the protocol reports; for a method that ``tunes``.
        step: optimizer steps done, while :meth:`train` runs.
        facts: anything a method adds here is stored in the fit's ``facts.json``. What it adds while it trains survives
            a kill; names are text then, so give dictionaries that are updated along the way names of text.
        warnings: sentences that are shown, and stored with the fit.
        score: metrics of a posterior on the examples that mid-run evaluation watches; None for no such evaluation.
        eval_every: steps between mid-run evaluations; 0 for none.
        graphs: replay forward and backward passes as CUDA graphs, where a step is one pass of the default loss.
        compile: compiled layers in the training; the same results up to rounding.
        recompute: gradient checkpointing in the training; the same results, in more time and less memory.
        planned_steps: the steps of the training that this one is a short probe of: what saves time in those is done in
            these. None: those of the spec.
        trace: the rows of the training curve.
        tracking: where these rows go besides.
        train_seconds: seconds of optimization, by the training clock.
        train_ended: ``time.perf_counter()`` when the training was done: what follows is the posterior's cost.
        forwards: examples passed forward by the training's steps, without mid-run evaluation.
        model_forwards: all that the model had passed forward since it was loaded when the training was done.
    """

    spec: FitSpec
    load: Callable[[], ChoiceModel]
    encode: Callable[[], Encoded]
    checkpointing: Checkpointing
    encode_tuning: Callable[[], Encoded] | None = None
    starts: tuple[Posterior, ...] = ()
    read_adapter: Callable[[str], Params] = no_adapter
    progress: Progress = dataclasses.field(default_factory=Progress)
    score: Callable[[Posterior], Mapping[str, float]] | None = None
    eval_every: int = 0
    graphs: bool = False
    compile: bool = False
    recompute: bool = False
    planned_steps: int | None = None
    generator: torch.Generator = dataclasses.field(default_factory=torch.Generator)
    step: int = 0
    trace: list[dict[str, float]] = dataclasses.field(default_factory=list)
    tracking: Tracking = dataclasses.field(default_factory=Tracking)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)
    train_seconds: float = 0.0
    trained: bool = False
    train_ended: float = 0.0
    forwards: int = 0
    model_forwards: int = 0

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

    @functools.cached_property
    def device_generator(self) -> torch.Generator:
        """A generator on the model's device, seeded for every step; on a CPU ``generator`` itself.

        Noise for 4 million adapter entries takes 20 ms from a CPU's generator and 2 ms from an H100's.
        """
        device = self.model.device
        seed = digest(seed_for(self.spec, "noise before"), device.type)  # before the first step, and without steps
        return self.generator if device.type == "cpu" else torch.Generator(device).manual_seed(seed)

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
        schedule: Schedule | Sequence[Schedule] = linear_to_zero,
        loss: Callable[[Batch], Tensor] | None = None,
        perturb: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
        draws: int = 1,
        after_step: Callable[[int], None] | None = None,
        state: Mapping[str, Stateful] | None = None,
        mean: Callable[[], Params] | None = None,
        posterior: Callable[[], Posterior] | None = None,
        diagnose: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        """Take ``spec.train.steps`` optimizer steps, with adapter dropout on, checkpointing along the way.

        Args:
            optimizer: over any tensors; each group's learning rate is multiplied by ``schedule(t / T)``.
            schedule: one for all parameter groups, or one for each.
            loss: the objective of one micro-batch, a mean over its examples; default: :meth:`loss`. It may read
                :attr:`step`.
            perturb: a context around each forward and backward pass (a posterior draw, for IVON).
            draws: passes per step, each in its own ``perturb``; their gradients are averaged.
            after_step: called with the number of steps done; collect samples here, into something in ``state``.
            state: what must survive a kill besides the optimizer and its parameters: name -> an object with
                ``state_dict()`` and ``load_state_dict(state)``, such as :class:`bench.train.checkpoint.Snapshots`.
            mean: the adapters that mid-run evaluation uses; default: the model's own.
            posterior: what mid-run evaluation predicts with instead, by the method's own ``predict``. S draws cost S
                passes over the watched examples.
            diagnose: numbers to put into the trace next to the loss.

        Raises:
            TypeError: an entry of ``state`` cannot be stored.
            FloatingPointError: the loss became NaN or infinite.
            ModelNotUsable: it is so because the base's own logits are.
            Stopped: it was asked to stop, and left a checkpoint.
        """
        if self.trained:
            raise RuntimeError("job.train() was called twice in one fit: one training has one checkpoint.")
        self.trained = True
        check_state(state or {})
        settings = self.spec.train
        self.forwards = settings.steps * settings.batch_size * draws
        rates = Rates(optimizer.param_groups, schedule)
        clock = Clock(self.model.device)
        now = TrainState(
            fit=key(self.spec),
            model=self.model,
            optimizer=optimizer,
            parameters=[parameter for group in optimizer.param_groups for parameter in group["params"]],
            extras=dict(state or {}),
            clock=clock,
            trace=self.trace,
            facts=self.facts,
            warnings=self.warnings,
            running=torch.zeros((), device=self.model.device),
        )
        initial = _sums(now.parameters)
        self.checkpointing.resume(now)
        for row in self.trace:
            self.tracking.log(row)
        watched = posterior or (lambda: Point(mean() if mean is not None else self.model.params))
        self.progress.start("train", settings.steps, done=now.step)
        if now.step == 0:
            self._evaluate(0, clock, watched)
        passes = self._passes(now.parameters, loss, draws, perturb)
        log_every = max(1, settings.steps // TRACE_POINTS)
        recompute = self.model.recompute() if self.recompute else None
        compiled = self.model.compiled() if self.compile else None
        switched = recompute or compiled
        with contextlib.ExitStack() as stack:
            if self._quickly(now.parameters):
                stack.enter_context(self.model.at_ends())
            stack.enter_context(self.model.dropout())
            if switched:
                stack.enter_context(switched.on())
            stack.enter_context(clock.running())
            if compiled and now.step < settings.steps:
                self._compile(compiled, now)
            for batch in self._batches(now.step):
                self.step = now.step
                self._seed(now.step)
                rates.set(optimizer.param_groups, now.step / settings.steps)
                optimizer.zero_grad()
                now.running = passes(batch, now.running)
                if settings.clip_norm:
                    torch.nn.utils.clip_grad_norm_(now.parameters, settings.clip_norm)
                optimizer.step()
                now.step = self.step = done = now.step + 1
                if after_step is not None:
                    after_step(done)
                if done % log_every == 0 or done == settings.steps:
                    with clock.paused():
                        self._log(now, (done - 1) % log_every + 1, diagnose)
                if self.eval_every and (done % self.eval_every == 0 or done == settings.steps):
                    with clock.paused():
                        self._evaluate(done, clock, watched)
                self.progress.step(done)
                if done < settings.steps:
                    self._save(now)
        if compiled:
            self.facts["compiled"] = not compiled.failed and not compiled.kept
            if compiled.failed:
                self.warnings.append(f"--compile had no effect, layers were not compiled ({compiled.failed}).")
            elif compiled.kept:
                self.warnings.append(
                    "--compile changed nothing where the method passes its own parameters to the model."
                )
        if recompute and recompute.kept:
            self.warnings.append(
                "--gradient-checkpointing saved nothing where the method passes its own parameters to the model."
            )
        if all(abs(a - b) < STILL for a, b in zip(_sums(now.parameters), initial, strict=True)):
            self.warnings.append(
                f"No parameter moved in {settings.steps} steps, so nothing was learned: the learning rate is 0, or the "
                "gradients are 0, or too small or too large to be squared. Check lr, clip_norm and lora.alpha."
            )
        self.tracking.close()
        self.train_seconds += clock.seconds
        self.progress.finish()
        self.train_ended = time.perf_counter()
        self.model_forwards = self.model.forwards

    def _batches(self, first: int) -> Iterator[Batch]:
        """The batches of the steps from ``first`` on."""
        settings = self.spec.train
        batches = self.data.shuffled(settings.batch_size, seed_for(self.spec, "data"), first)
        for _ in range(first, settings.steps):
            yield next(batches)

    @functools.cached_property
    def _stream(self) -> int:
        """The seed that those of all steps are derived from."""
        return seed_for(self.spec, "train")

    def _seed(self, step: int) -> None:
        """Start the random streams of a step."""
        seed = digest(self._stream, step)
        seed_global(seed, self.model.device)
        self.generator.manual_seed(seed)
        if self.device_generator is not self.generator:
            self.device_generator.manual_seed(digest(seed, "noise"))  # not the stream of dropout, whose seed is `seed`

    def _compile(self, compiled: Compiled, now: TrainState) -> None:
        """Compile with the first batch, or find that it cannot be done."""
        batch = next(next(self._batches(now.step)).split(self.spec.train.micro_batches))
        compiled.check(lambda: self.loss(batch), list(self.model.params.values()), lambda: self._seed(now.step))

    def _passes(
        self,
        parameters: Sequence[Tensor],
        loss: Callable[[Batch], Tensor] | None,
        draws: int,
        perturb: Callable[[], contextlib.AbstractContextManager[Any]],
    ) -> Callable[[Batch, Tensor], Tensor]:
        """The forward and backward passes of a step: (batch, sum of losses so far) to that sum with the step's loss."""
        pieces, objective = self.spec.train.micro_batches, loss or self.loss
        graphed = recorded = None
        one_pass = draws == pieces == 1 and loss is None
        if self.graphs and one_pass:
            graphed = GraphedLoss(objective, parameters, CudaRecorder())
        elif one_pass and self._quickly(parameters):
            recorded = ReplayedLoss(objective, self.model, parameters)

        def replay(batch: Batch, total: Tensor) -> Tensor:
            assert graphed is not None
            with perturb():
                total = total + graphed(batch)
            self.facts["graphs"] = len(graphed)
            return total

        def replay_recorded(batch: Batch, total: Tensor) -> Tensor:
            assert recorded is not None
            with perturb():
                return total + recorded(batch)

        def run(batch: Batch, total: Tensor) -> Tensor:
            for _ in range(draws):
                with perturb():
                    for piece in batch.split(pieces):
                        value = objective(piece) * (len(piece) / (len(batch) * draws))
                        value.backward()  # type: ignore[no-untyped-call]
                        total = total + value.detach()
            return total

        if graphed is not None:
            return replay
        return run if recorded is None else replay_recorded

    def _quickly(self, parameters: Sequence[Tensor]) -> bool:
        """Whether the steps of a small base on a CPU are worth the time that it takes to shorten them."""
        own = type(self).loss is not FitJob.loss
        steps = self.planned_steps or self.spec.train.steps
        return not (own or self.compile or self.recompute) and pays(self.model, parameters, steps)

    def _log(self, now: TrainState, count: int, diagnose: Callable[[], Mapping[str, float]] | None) -> None:
        """Add the mean loss of the last ``count`` steps to the trace."""
        loss = float(now.running) / count
        if not math.isfinite(loss):
            batches = itertools.islice(self._batches(now.step - count), count)
            blame_base(self.model, self.spec, get_task(self.spec.data.task).answers, batches)
            raise diverged(loss, now.step, self.spec)
        row = {"step": now.step, "seconds": now.clock.seconds, "loss": loss, "lr": now.optimizer.param_groups[0]["lr"]}
        row.update({name: float(value) for name, value in (diagnose() if diagnose is not None else {}).items()})
        self._record(row)
        now.running = torch.zeros_like(now.running)

    def _evaluate(self, done: int, clock: Clock, watched: Callable[[], Posterior]) -> None:
        """Add the metrics of the present posterior to the trace. Dropout is off."""
        if self.score is None or not self.eval_every:
            return
        with self.model.dropout(False):
            metrics = self.score(watched())
        self._record({"step": done, "seconds": clock.seconds, **metrics})

    def _record(self, row: dict[str, float]) -> None:
        self.trace.append(row)
        self.tracking.log(row)

    def _save(self, now: TrainState) -> None:
        """Write a checkpoint if it is due, or if there is a reason to stop, which is then done."""
        reason = self.checkpointing.stop()
        if reason or self.checkpointing.due:
            with now.clock.paused():
                self.checkpointing.save(now)
            if reason:
                raise Stopped(f"{reason}: stopped after step {now.step}")


@torch.no_grad()
def _sums(parameters: Sequence[Tensor]) -> list[float]:
    """Sum and sum of absolute values of each tensor: what moves changes them, and no copy is kept."""
    return [float(found) for p in parameters for found in (p.double().sum(), p.double().abs().sum())]
