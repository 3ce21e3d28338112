"""laplace-torch over the adapters: its posterior classes, evidence and prior precision, on the suite's own curvature.

The only file that knows laplace-torch (Daxberger et al. 2021, arXiv 2106.14806). Import it inside functions: the
package takes seconds to load, and is not needed to predict.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from bench.data.batches import Batch, Encoded
from bench.posterior import Params
from bench.process.progress import Progress
from methods.laplace.curvature import Adapted, Tape, diagonal, jacobians, roots
from methods.laplace.kronecker import Decomposed, Factors, Rows

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations in packages that laplace-torch loads
    try:
        from laplace.baselaplace import DiagLaplace, KronLaplace
        from laplace.curvature import CurvatureInterface
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"laplace-torch cannot be imported ({error}): pip install laplace-torch. If torchvision is what fails, as "
            "it does next to a CPU build of torch, pip uninstall torchvision: it is never used."
        ) from error


class ReadOut(nn.Module):
    """A model as laplace-torch wants it: a module with the adapters ``names`` as parameters, fed ``{"batch": b}``."""

    shapes: dict[str, tuple[int, int]]
    rank: int

    def __init__(self, model: Adapted, params: Params, names: Sequence[str], rank: int = 0) -> None:
        super().__init__()
        self.adapted, self.names, self.rank = model, list(names), rank
        self.weights = nn.ParameterList([params[name] for name in names])
        self.shapes = {name: (params[name].shape[0], params[name].shape[1]) for name in names}

    def forward(self, x: dict[str, Any]) -> Tensor:
        return self.adapted.logits(x["batch"])


class AdapterCurvature(CurvatureInterface):
    """The exact GGN (= Fisher) of the summed cross-entropy, by methods.laplace.curvature.

    Parameters come in the order of ``names``. ``tokens`` and ``examples`` count the whole training set; the Kronecker
    factors are scaled by them.
    """

    def __init__(self, model: ReadOut, likelihood: str, convention: str = "expand", tokens: int = 1, examples: int = 1,
                 **keys: Any) -> None:  # fmt: skip
        super().__init__(model, likelihood, **keys)
        self.read_out, self.convention = model, convention
        self.tokens, self.examples = tokens, examples

    def _tape(self, x: Any) -> Tape:
        return Tape(self.read_out.adapted, x["batch"], self.read_out.names)

    def jacobians(self, x: Any, enable_backprop: bool = False) -> tuple[Tensor, Tensor]:
        """((B, C, P) Jacobians, (B, C) logits)."""
        found, logits = jacobians(self.read_out.adapted, x["batch"], self.read_out.names)
        return torch.cat([found[name].flatten(2) for name in self.read_out.names], -1), logits

    def full(self, x: Any, y: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        """(summed loss, (P, P) GGN): for small models only."""
        found, logits = self.jacobians(x)
        rooted = torch.einsum("kbc,bcp->kbp", roots(logits), found).flatten(0, 1)
        return self.lossfunc(logits, y), rooted.T @ rooted

    def diag(self, x: Any, y: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        """(summed loss, (P,) diagonal of the GGN)."""
        tape = self._tape(x)
        loss = self.lossfunc(tape.logits, y).detach()
        found = diagonal(tape)
        return loss, torch.cat([found[name].flatten() for name in self.read_out.names])

    def kron(self, x: Any, y: Tensor, N: int, **_: Any) -> Any:
        """(summed loss, what the batch adds to the Kronecker factors)."""
        tape = self._tape(x)
        return self.lossfunc(tape.logits, y).detach(), Rows(tape, self.convention, self.tokens, self.examples)


class SharedKronLaplace(KronLaplace):
    """laplace-torch's Kronecker Laplace on factors that parameters may share, and that may be of low rank."""

    H: Any  # Factors while they are summed, then Decomposed
    model: ReadOut

    def _init_H(self) -> None:
        self.H = Factors(self.model.shapes, self.model.rank)


class Passes:
    """The training set as laplace-torch reads it: dictionaries of a batch and its labels, and a ``dataset``.

    A CPU takes the training's batches. An accelerator would spend most of the time of such small ones on launching
    kernels, so there a batch holds up to ``TOKENS`` tokens; the curvature is a sum over examples either way.
    """

    TOKENS = 1024  # activations of 32 layers of width 4096 with their graph: about 4 GB

    def __init__(self, data: Encoded, batch_size: int, progress: Progress) -> None:
        self.dataset, self._batch_size, self._progress = data, batch_size, progress
        self._tokens = 0 if data.device.type == "cpu" else self.TOKENS

    def __iter__(self) -> Iterator[dict[str, Batch | Tensor]]:
        self._progress.start("curvature", len(self.dataset))
        for rows, batch in self.dataset.in_order(self._batch_size, self._tokens):
            yield {"batch": batch, "labels": batch.labels}
            self._progress.advance(len(rows))
        self._progress.finish()


def tune_prior(laplace: DiagLaplace | KronLaplace, precision: float, steps: int, lr: float) -> dict[str, float]:
    """Set the scalar prior precision, to ``precision`` or by maximising the evidence; returns what was found.

    ``log_evidence_missed`` is what one Newton step would still gain, in nats: near 0 at the maximum.

    The evidence is log p(D | m) - (log det P - log det P0 + prior |m|^2) / 2, and its maximiser is sought by ``steps``
    steps of Adam on the log precision, from 1 (Immer et al. 2021, arXiv 2104.04975).
    """
    if precision:
        laplace.prior_precision = precision
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="By default `link_approx`")  # the evidence has no link
            laplace.optimize_prior_precision(method="marglik", n_steps=steps, lr=lr, init_prior_prec=1.0)
    log_precision = laplace.prior_precision.detach().log().requires_grad_()
    evidence = laplace.log_marginal_likelihood(prior_precision=log_precision.exp())
    (slope,) = torch.autograd.grad(evidence, log_precision, create_graph=True)
    (bend,) = torch.autograd.grad(slope, log_precision)
    laplace.prior_precision = log_precision.detach().exp()
    found = {
        "prior_precision": float(laplace.prior_precision),
        "log_evidence": float(evidence.detach()),
        "log_evidence_slope": float(slope.detach()),
        "log_evidence_missed": float(slope.detach()) ** 2 / (2 * abs(float(bend)) + 1e-12),
        "log_likelihood": float(laplace.log_likelihood),
    }
    if not all(map(math.isfinite, found.values())):
        raise FloatingPointError(
            f"The Laplace evidence is not finite ({found}): the curvature or the adapters have overflowed. Set "
            "prior_precision, or lower the learning rate of the training it starts from."
        )
    return found


def fit_diag(model: ReadOut, passes: Passes, **prior: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
    """(name -> posterior variance, facts): 1 / (diagonal of the GGN + prior precision)."""
    laplace = DiagLaplace(model, "classification", backend=AdapterCurvature)
    laplace.fit(cast(Any, passes))
    facts = tune_prior(laplace, **prior)
    flat = laplace.posterior_variance.detach()
    parts = torch.split(flat, [out * width for out, width in model.shapes.values()])
    return {name: part.view(shape) for (name, shape), part in zip(model.shapes.items(), parts, strict=True)}, facts


def fit_kron(model: ReadOut, passes: Passes, convention: str, **prior: Any) -> tuple[Decomposed, dict[str, float]]:
    """(decomposed factors, facts with the prior precision)."""
    tokens = sum(len(prompt) for prompt in passes.dataset.tokens)
    scale = {"convention": convention, "tokens": tokens, "examples": len(passes.dataset)}
    laplace = SharedKronLaplace(model, "classification", backend=AdapterCurvature, backend_kwargs=scale)
    laplace.fit(cast(Any, passes))
    facts = tune_prior(laplace, **prior)
    return laplace.H, facts
