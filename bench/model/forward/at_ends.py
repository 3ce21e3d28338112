"""What follows the last layer's attention, for the last token of each prompt alone: the same bits in less time.

An answer is read at the last token of a prompt, and after the last attention no other token reaches it: in a base with
two layers, a third of all products are for nothing. Which modules can skip them is found by trial: one that reads the
last token alone must leave every bit as it was of the logits, of their gradients, and of what the adapted layers read.
(From four rows on, a row of a matrix product did not depend on the number of rows on the CPUs that were tried.)
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bench.data.batches import Batch, Encoded
from bench.model.adapters import Adapter
from bench.posterior import Params
from bench.task import Example

FEWEST = 4  # prompts of a batch: products of fewer rows have kernels of their own
BATCHES = (FEWEST, 2 * FEWEST + 1)  # of the trial
SCALE = 0.1  # of the adapters in the trial

Run = Callable[[], Sequence[Tensor]]


class Model(Protocol):
    """The part of a model that a trial needs: :class:`bench.model.choice_model.ChoiceModel` has it."""

    @property
    def params(self) -> Mapping[str, Tensor]:
        """The adapters."""

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """The layers that they adapt."""

    def logits(self, batch: Batch, params: Params | None = None) -> Tensor:
        """(B, C) logits."""

    def dropout(self, on: bool = True) -> contextlib.AbstractContextManager[None]:
        """Adapter dropout on or off inside."""


class LastTokens:
    """The modules in the last layer that can read the last of the T tokens of (B, T, d) inputs alone.

    They do so in passes inside :meth:`on`, where that is inside :meth:`allowed`, in batches of at least ``FEWEST``.

    Attributes:
        chosen: whether :meth:`choose` was called.

    Args:
        network: the base with its adapters.
        hosts: its adapted layers, which read all tokens: methods record what, and draw dropout for it.
        layers: the layers that it is a stack of.
        tokens: a text, which the trial's prompts are parts of.
    """

    def __init__(
        self, network: nn.Module, hosts: Sequence[nn.Module], layers: Sequence[nn.Module], tokens: Sequence[int]
    ) -> None:
        self._adapted = {id(module) for host in hosts for module in host.modules()}
        self._watched = [module for module in network.modules() if id(module) not in self._adapted]
        self._last, self._tokens = layers[-1:], tokens
        self._modules: list[nn.Module] = []
        self.chosen = self._allowed = self._active = False

    def choose(self, model: Model) -> None:
        """Find the modules by trial."""
        run = functools.partial(_run, model, self._tokens)
        try:
            with self.allowed(), contextlib.suppress(Exception):  # a base that cannot read the prompts goes without
                for layer in self._last:
                    self._choose(layer, run, run())
        except BaseException:  # stopped in mid-trial
            self._modules.clear()
            raise
        self.chosen = True

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """Passes inside may be shortened."""
        before, self._allowed = self._allowed, True
        try:
            yield
        finally:
            self._allowed = before

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """For one pass, of which nothing is read but the logits at the last tokens. A hook on the base reads more."""
        if not self._allowed or self._active or any(map(watched, self._watched)):
            yield
            return
        self._active = True
        try:
            for module in self._modules:
                module.forward = functools.partial(_at_end, module.forward)
            yield
        finally:
            self._active = False
            for module in self._modules:
                vars(module).pop("forward", None)  # the class's own shows again

    def _choose(self, parent: nn.Module, run: Run, wanted: Sequence[Tensor]) -> None:
        """Take the largest modules in ``parent`` that hold no adapter."""
        for module in parent.children():
            if id(module) in self._adapted or "forward" in vars(module):  # accelerate's, of a base that it has spread
                continue
            if all(id(part) not in self._adapted for part in module.modules()):
                self._modules.append(module)
                if _same(run, wanted):
                    continue
                self._modules.pop()
            self._choose(module, run, wanted)


def _run(model: Model, tokens: Sequence[int]) -> list[Tensor]:
    """What the adapted layers read of prompts of unlike length, the logits, and their gradients, with B != 0."""
    prompts = tuple(tuple(tokens[: 1 + 7 * n % len(tokens)]) for n in range(max(BATCHES)))
    device = next(iter(model.params.values())).device
    encoded = Encoded(prompts, (Example("", 0),) * len(prompts), tokens[0], device, 0)
    generator, found = torch.Generator().manual_seed(0), list[Tensor]()
    hosts = {id(adapter.host): adapter.host for adapter in model.adapters.values()}
    with contextlib.ExitStack() as stack:
        for context in (torch.inference_mode(False), torch.enable_grad(), model.dropout(False)):
            stack.enter_context(context)
        for host in hosts.values():
            hook = host.register_forward_pre_hook(lambda _, args: found.append(args[0].detach()))
            stack.callback(hook.remove)
        params = {
            name: torch.randn(value.shape, generator=generator).mul(SCALE).to(value).requires_grad_()
            for name, value in model.params.items()
        }
        for count in BATCHES:
            logits = model.logits(encoded.batch(range(count)), params)
            gradients = torch.autograd.grad(logits.square().sum(), list(params.values()), allow_unused=True)
            found += [logits.detach(), *(one for one in gradients if one is not None)]
    return found


def _same(run: Run, wanted: Sequence[Tensor]) -> bool:
    """Whether a run gives these bits."""
    with contextlib.suppress(Exception):  # of any kind: modules of anybody's meet shapes that they may not read
        return all(map(torch.equal, run(), wanted))
    return False


def watched(module: nn.Module) -> bool:
    """Whether somebody watches what passes through a module."""
    hooks: Any = module
    return bool(hooks._forward_hooks or hooks._forward_pre_hooks or hooks._backward_hooks or hooks._backward_pre_hooks)


def _at_end(inner: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What a module gives for the last of the tokens: (B, 1, d), which counts for all where it is added."""
    tokens = args[0] if len(args) == 1 and not options else None
    if tokens is None or tokens.ndim != 3 or len(tokens) < FEWEST:
        return inner(*args, **options)
    return inner(tokens[:, -1]).unsqueeze(1)
