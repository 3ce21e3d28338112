"""AdamW that pauses after every step, so that a test can reach a training at work without many steps to compute."""

import os
import time
from dataclasses import dataclass

from bench.method import METHODS
from bench.posterior import Point
from methods.adamw import AdamW

PAUSE = "UNHURRIED_SECONDS"  # environment variable: the length of a pause; none by default


@dataclass(frozen=True, kw_only=True)
class Unhurried(AdamW):
    """AdamW to the byte, however long the pauses are."""

    name, title = "unhurried", "Unhurried AdamW"

    def fit(self, job):
        seconds = float(os.environ.get(PAUSE, "0"))
        job.train(self.optimizer(job, self.weight_decay), after_step=lambda done: time.sleep(seconds))
        return Point(job.model.snapshot())


METHODS.add(Unhurried, listed=False)  # the contracts see AdamW already
