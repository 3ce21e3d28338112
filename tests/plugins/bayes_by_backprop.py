"""A variational method with parameters of its own and a KL term: Bayes by backprop on the A factors (BLoB-like)."""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch.nn.functional import softplus

from bench.method import Method, register_method
from bench.options import Fit, Predict
from bench.posterior import DiagGaussian


@register_method
@dataclass(frozen=True, kw_only=True)
class BayesByBackprop(Method):
    """q(A) = N(mu, softplus(rho)^2), prior N(0, prior_sd^2); minimises E_q[loss] + KL / N."""

    name, title = "bbb", "Bayes by backprop"
    lr: Annotated[float, Fit("peak learning rate of AdamW")] = 1e-3
    sd: Annotated[float, Fit("initial posterior standard deviation")] = 0.01
    prior_sd: Annotated[float, Fit("prior standard deviation")] = 0.2
    draws: Annotated[int, Predict("posterior draws")] = 5

    def fit(self, job):
        params = job.model.params
        start = math.log(math.expm1(self.sd))
        rho = {n: torch.full_like(p, start, requires_grad=True) for n, p in params.items() if "lora_A" in n}

        def loss(batch):
            draw, kl = {}, 0.0
            for name, r in rho.items():
                mu, sd = params[name], softplus(r)
                noise = torch.randn(mu.shape, generator=job.generator).to(mu.device)
                draw[name] = mu + sd * noise
                kl = kl + ((sd**2 + mu**2) / (2 * self.prior_sd**2) - 0.5 - torch.log(sd / self.prior_sd)).sum()
            return job.loss(batch, draw) + kl / len(job.data)

        job.train(torch.optim.AdamW([*params.values(), *rho.values()], lr=self.lr, weight_decay=0.0), loss=loss)
        variance = {n: softplus(rho[n].detach()) ** 2 if n in rho else torch.zeros_like(p) for n, p in params.items()}
        return DiagGaussian(job.model.snapshot(), {n: v.detach() for n, v in variance.items()})

    def draw(self, job):
        return job.posterior.draws(self.draws, job.generator)
