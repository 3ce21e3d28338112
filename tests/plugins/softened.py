"""A method that only predicts differently: AdamW's predictive mixed with the uniform one."""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from bench.method import Method, PredictJob, register_method
from bench.options import Predict


@register_method
@dataclass(frozen=True, kw_only=True)
class Softened(Method):
    """(1 - w) p + w / C."""

    name, title, base = "softened", "Softened AdamW", "adamw"
    weight: Annotated[float, Predict("share w of the uniform distribution", ge=0, le=1)] = 0.1

    def predict(self, job: PredictJob) -> Tensor:
        probs = job.log_probs(job.posterior.mean).double().exp()
        return ((1 - self.weight) * probs + self.weight / probs.shape[1]).log().unsqueeze(0)
