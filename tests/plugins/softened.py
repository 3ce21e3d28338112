"""A method that only predicts differently: AdamW's predictive mixed with the uniform one."""

from dataclasses import dataclass

from torch import Tensor

from bench.method import Method, PredictJob
from bench.options import predict_option
from bench.registry import register_method


@register_method
@dataclass(frozen=True, kw_only=True)
class Softened(Method):
    """(1 - w) p + w / C."""

    name, title, base = "softened", "Softened AdamW", "adamw"
    weight: float = predict_option(0.1, "share w of the uniform distribution")

    def predict(self, job: PredictJob) -> Tensor:
        probs = job.log_probs(job.posterior.mean).double().exp()
        return ((1 - self.weight) * probs + self.weight / probs.shape[1]).log().unsqueeze(0)
