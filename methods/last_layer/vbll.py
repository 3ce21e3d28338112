"""VBLL: adapters trained together with a variational posterior over the answer head. One pass at prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from bench.data.batches import Batch
from bench.method import FitJob, PredictJob, log_softmax, register_method
from bench.model.choice_model import ChoiceModel
from bench.options import Fit, Predict
from bench.posterior import Posterior
from bench.specs import FitSpec
from methods.adamw import AdamOptions
from methods.laplace.link import GaussianLogits
from methods.last_layer.llla import head_weights
from methods.last_layer.variational import Head, VariationalHead


@register_method
@dataclass(frozen=True, kw_only=True)
class Vbll(GaussianLogits, AdamOptions):
    """Maximises the mean bound plus 1/N of (log prior of the noise - KL) over adapters, q(W) and noise, by AdamW.

    methods/last_layer/variational.py has the model. W starts at the answer rows of the base, so the mean starts at the
    base's own logits.
    """

    name = "vbll"
    title = "VBLL"

    head_lr: Annotated[float, Fit("peak learning rate of the head; 0 is that of the adapters", ge=0, le=1e30)] = 0.0
    covariance: Annotated[Literal["diagonal", "dense"], Fit("covariance of the d weights of an answer")] = "diagonal"
    prior_scale: Annotated[float, Fit("prior variance of a weight, times d / 2", gt=0, le=1e12)] = 1.0
    dof: Annotated[float, Fit("degrees of freedom of the noise's Wishart prior", gt=0, le=1e9)] = 1.0
    wishart_scale: Annotated[float, Fit("scale of that prior: larger is more noise", gt=0, le=1e9)] = 1.0
    kl_weight: Annotated[float, Fit("weight of KL and noise prior; 1 is the evidence bound", ge=0, le=1e9)] = 1.0
    variance0: Annotated[float, Fit("initial variance of a weight, times d", gt=0, le=1e9)] = 1.0
    noise0: Annotated[float, Fit("initial variance of the logits' noise", gt=0, le=1e9)] = 0.3678794411714423
    tau: Annotated[float, Predict("scale of the covariance: 0 is the mean, 1 the posterior", ge=0, le=1e4)] = 1.0

    def check_fit(self, fit: FitSpec) -> None:
        if "head" in fit.model.lora.targets:
            raise ValueError(
                f"{self.name} learns the rows of the answer head itself: take `head` out of lora.targets, or "
                f"{self.name} out."
            )

    def fit(self, job: FitJob) -> Posterior:
        head = self.start(job.model, job.data.batch(range(min(4, len(job.data)))))
        prior_variance = 2 / head.mean.shape[1] * self.prior_scale
        adapters = list(job.model.params.values())

        def loss(batch: Batch) -> Tensor:
            prior = head.log_noise_prior(self.dof, self.wishart_scale) - head.divergence(prior_variance)
            bound = head.bound(job.model.features(batch), batch.labels).mean()
            return -(bound + self.kl_weight / len(job.data) * prior)

        groups = [
            {"params": adapters, "lr": self.lr},
            {"params": head.parameters(), "lr": self.head_lr or self.lr},
        ]
        optimizer = torch.optim.AdamW(
            groups, betas=(self.beta1, self.beta2), eps=self.eps, weight_decay=0.0, foreach=True
        )
        job.train(
            optimizer,
            loss=loss,
            posterior=lambda: head.posterior(job.model.snapshot()),
            diagnose=lambda: {"kl": float(head.divergence(prior_variance).detach())},
        )
        posterior = head.posterior(job.model.snapshot())
        job.facts.update(
            kl=float(head.divergence(prior_variance).detach()),
            mean_noise=float(posterior.rows["noise"].mean()),
            mean_sd=float(head.log_root.detach().exp().mean()),
        )
        return posterior

    def start(self, model: ChoiceModel, batch: Batch) -> Head:
        """q(W) around the model's answer rows.

        Raises:
            ValueError: the model caps its logits, so they are not linear in the features.
        """
        slopes = model.last_layer(batch).slopes
        scale = float(slopes[0, 0, 0])
        identity = torch.eye(slopes.shape[1], device=slopes.device)
        if not torch.allclose(slopes, scale * identity, rtol=1e-3, atol=1e-3 * abs(scale)):
            raise ValueError(
                f"{self.name} needs logits that are linear in what the answer head reads, and {model.name} caps its "
                f"logits: use llla, or take {self.name} out."
            )
        weights = scale * head_weights(model.head).float()
        given = getattr(model.head, "bias", None)
        bias = weights.new_zeros(len(weights)) if given is None else scale * given.detach().float()
        variance = self.variance0 / weights.shape[1]
        return Head(weights, bias, variance, self.noise0, self.covariance)

    def predict(self, job: PredictJob) -> Tensor:
        posterior, model = job.posterior.to(job.model.device), job.model
        if not isinstance(posterior, VariationalHead):
            raise TypeError(f"{self.name} predicts with its own posterior, not with a {posterior.kind}.")

        @torch.no_grad()
        def moments(batch: Batch) -> tuple[Tensor, Tensor]:
            mean, covariance = posterior.moments(model.features(batch))
            return mean, self.tau * covariance

        with model.assign(posterior.value):
            if self.tau == 0:
                return job.over_batches(lambda batch: log_softmax(moments(batch)[0])).unsqueeze(0)
            return self.linked(job, moments)
