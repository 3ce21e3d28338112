"""``bench predict``: answers to new questions from a stored result."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.data.file_task import FileTask
from bench.data.formats import parse_file
from bench.data.splits import checked
from bench.method import PredictJob
from bench.metrics import mixture
from bench.model.choice_model import ChoiceModel
from bench.run.isolation import isolated
from bench.run.outputs import as_predictions
from bench.run.stored import Result
from bench.task import Example, MalformedRow, Row, Task, get_task
from bench.train.seeding import seed_global

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Probabilities (N, C) of the answers to N questions; (S, N, C) log-probabilities of the S draws."""

    answers: tuple[str, ...]
    probabilities: np.ndarray[Any, Any]
    log_probs: np.ndarray[Any, Any]

    def rows(self) -> list[dict[str, Any]]:
        """For each question the most probable answer, all probabilities, and how far the draws disagree.

        ``disagreement`` is the mutual information of answer and draw in nats: 0 where all draws say the same.
        """
        entropy = _entropy(self.probabilities)
        within = _entropy(np.exp(self.log_probs.astype(np.float64))).mean(axis=0)
        return [
            {
                "answer": self.answers[int(row.argmax())],
                "probabilities": {answer: float(value) for answer, value in zip(self.answers, row, strict=True)},
                "disagreement": max(0.0, float(entropy[number] - within[number])),
            }
            for number, row in enumerate(self.probabilities)
        ]


def _entropy(probabilities: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The entropy in nats over the last axis."""
    safe = np.clip(probabilities, 1e-300, None)
    found: np.ndarray[Any, Any] = -(probabilities * np.log(safe)).sum(axis=-1)
    return found


def read_questions(file: Path, task: Task) -> tuple[Example, ...]:
    """The questions of a CSV, TSV, JSON Lines or parquet file: prompts as they are, or rows as the task reads them.

    Raises:
        FileNotFoundError, ValueError: there is no such file; or it holds no question, or one that cannot be read.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}.")
    rows = parse_file(str(file), file.read_bytes())
    if not rows:
        raise ValueError(f"{file} holds no question.")
    return tuple(_question(row, task, f"{file}, row {number}") for number, row in enumerate(rows))


def _question(row: Mapping[str, Any], task: Task, where: str) -> Example:
    try:
        whole = "prompt" in row and not _reads_prompt(task, row)
        found = Example(Row(row).text("prompt"), 0) if whole else task.question(Row(row))
        if found is None:
            raise ValueError(f"{where}: the task '{task.name}' drops such rows.")
        return checked(found, where, len(task.answers))
    except MalformedRow as error:
        raise ValueError(f"{where}: {error}. Write a question as a 'prompt', or as a row of '{task.name}'.") from error


def _reads_prompt(task: Task, row: Mapping[str, Any]) -> bool:
    """Whether the task's own rows have a column of that name, which is then not a whole prompt."""
    if isinstance(task, FileTask):
        return "prompt" in task.description.columns
    watched = _Watched(row)
    with contextlib.suppress(Exception):  # of any kind: question() is the task author's, and columns may be missing
        task.question(Row(watched))
    return "prompt" in watched.read


class _Watched(dict[str, Any]):
    """A row that has every column; ``read``: those that were asked for."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self.read: set[str] = set()

    def get(self, field: str, default: Any = None) -> Any:
        self.read.add(field)
        found = super().get(field)
        return "-" if found is None or found == "" else found


def predict(
    result: Result,
    examples: Sequence[Example],
    *,
    load: Callable[[], ChoiceModel],
    batch_size: int = 32,
) -> Prediction:
    """Answer questions as the stored evaluation would: same method, options and draws.

    Args:
        result: an evaluation, or a fit, whose own method then predicts.
        examples: the questions; labels are not read.
        load: the base with the fit's adapters, made ready for the task's answers.
        batch_size: questions per forward pass.

    Raises:
        FloatingPointError, TypeError, ValueError: the method predicts something else than finite probabilities.
    """
    fit, method = result.fit, result.method
    task = get_task(result.run.data.task if result.run is not None else fit.data.task)
    job = PredictJob(
        posterior=result.posterior,
        examples=tuple(examples),
        answers=task.answers,
        generator=torch.Generator().manual_seed(result.seed),
        batch_size=batch_size,
        load=load,
        max_length=fit.train.max_length,
    )
    if method.uses_model:
        job.make_ready()
        if lost := job.encoded.loss_of_text("asked", fit.train.max_length):
            logger.warning(lost)
    with isolated():
        seed_global(result.noise_seed, job.model.device if method.uses_model else torch.device("cpu"))
        found = method.predict(job)
    log_probs = as_predictions(found, method.name, len(examples), len(task.answers)).astype(np.float64)
    return Prediction(task.answers, np.exp(mixture(log_probs)), log_probs)
