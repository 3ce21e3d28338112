"""Flipout: Gaussian noise on the A factors with separate signs for every token. Wen et al. 2018, arXiv 1803.04386.

The A map of an adapter reads x (.., d_in) and writes A x (.., r). With standard deviations S (r, d_in), one standard
normal E (r, d_in) for a forward pass, and signs u (.., d_in) and t (.., r) for every token, the noise added to A x is

    t * ((S * E) (u * x)),    with mean 0 and variance sum_j S_kj^2 x_j^2 in component k,

as of a draw A + S * E, but uncorrelated between tokens. It averages out over a prompt, so it is not a draw of one
function (that is ``Posterior.draws``). B and the scale of the adapter follow unchanged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor
from torch.nn.functional import linear

from bench.method import PredictJob
from bench.model.choice_model import ChoiceModel
from bench.posterior import DiagGaussian
from bench.specs import digest

FLIPOUT = "with noise of every token's own on the A factors"  # no value of the adapters


def a_factors(model: ChoiceModel) -> list[str]:
    """The names of the A factors, in the model's order: the maps that read the input of the adapted layers."""
    return [name for name, adapter in model.adapters.items() if adapter.first]


def device_generator(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """A generator on ``device``, seeded by a draw from ``generator`` (CPU).

    Signs for every token of every layer are too many to be drawn on the CPU. The global stream stays dropout's.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)


@contextlib.contextmanager
def flipout(
    model: ChoiceModel, names: Collection[str], sd: Callable[[str], Tensor], generator: torch.Generator
) -> Iterator[None]:
    """Inside, the A maps ``names`` add noise with the standard deviations ``sd(name)`` (r, d_in), read at each pass.

    ``generator`` is on the model's device; maps on other devices have generators that follow its seed. ``sd`` may give
    a graph: gradients reach what it was computed from.
    """
    others: dict[torch.device, tuple[int, torch.Generator]] = {}

    def on(device: torch.device) -> torch.Generator:
        if device == generator.device:
            return generator
        seed = generator.initial_seed()
        if device not in others or others[device][0] != seed:
            others[device] = seed, torch.Generator(device).manual_seed(digest(seed, str(device)))
        return others[device][1]

    def add_noise(name: str) -> Callable[[torch.nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            (x,) = args
            spread, source = sd(name).to(x.device), on(x.device)
            e = torch.randn(spread.shape, generator=source, device=x.device, dtype=x.dtype)
            noise = linear(_signs(x, source) * x, spread * e)
            return output + _signs(output, source) * noise

        return hook

    handles = [model.adapters[name].linear.register_forward_hook(add_noise(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """+1 or -1 with equal probability, in the shape and dtype of ``like``."""
    return torch.empty_like(like, requires_grad=False).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)


def flipout_log_probs(job: PredictJob, posterior: DiagGaussian, draws: int, tau: float) -> Tensor:
    """(S, N, C) log-probabilities of ``draws`` noisy passes at the mean of ``posterior``, its variances times tau.

    Every batch has its own noise, as published, so predictions depend on the batch size.
    """
    sds = {n: (tau * posterior.variance[n]).sqrt() for n in posterior.uncertain}
    passes = []
    for _ in range(draws):
        generator = device_generator(job.generator, job.model.device)
        with flipout(job.model, sds, sds.__getitem__, generator):
            passes.append(job.log_probs(posterior.mean))
    return torch.stack(passes)
