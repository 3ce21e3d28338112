"""Compiled layers: fewer and larger kernels for the stack of equal layers that a base is.

The code of a layer is compiled once, with symbolic lengths, and all layers run it (regional compilation). Inductor
would draw dropout from its own streams; it is told to draw as the plain pass does, so masks are those of the step's
seed, in a plain run, in a resumed one and in the replay of a CUDA graph. Results are those of plain layers up to
rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.model.forward.switched import Switched

ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-6}  # relative difference of losses that is none; else COARSE
COARSE = 5e-2


class Compiled(Switched):
    """While on, layers run compiled. It is off for a pass with its own parameters, which would compile again.

    Attributes:
        failed: why layers run plainly after all; "" as long as they do not.
    """

    def __init__(self, layers: Sequence[nn.Module], backend: str | Callable[..., Any] = "inductor") -> None:
        super().__init__(layers)
        self._backend = backend
        self._code: dict[Any, Callable[..., Any]] = {}
        self.failed = ""

    def run(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a layer gives, by the compiled code of its class."""
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        layer, code = inner.__self__, inner.__func__  # type: ignore[attr-defined]  # a bound method has both
        if code not in self._code:
            options: dict[str, Any] | None = {"fallback_random": True} if self._backend == "inductor" else None
            self._code[code] = torch.compile(code, fullgraph=True, dynamic=True, backend=self._backend, options=options)
        try:
            return self._code[code](layer, *map(_differentiable, args[:1]), *args[1:], **kwargs)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:  # raised before anything is computed
            self._give_up(error)
            return inner(*args, **kwargs)

    def check(self, loss: Callable[[], Tensor], parameters: Sequence[Tensor], seed: Callable[[], None]) -> None:
        """Compile both passes of ``loss`` (inside :meth:`on`); give up where that fails or gives another loss.

        ``seed`` starts the random streams of either pass.
        """
        from torch._dynamo.exc import TorchDynamoException

        self.failed = ""
        seed()
        with torch.no_grad():  # the plain layers
            plain = float(loss())
        seed()
        try:
            found = loss()
            torch.autograd.grad(found, parameters, allow_unused=True)
        except TorchDynamoException as error:  # of the backward pass
            self._give_up(error)
            return
        dtype = next((p.dtype for p in self._layers[0].parameters() if not p.requires_grad), torch.float32)
        value = float(found.detach())
        if not abs(value - plain) <= ROUNDING.get(dtype, COARSE) * (1 + abs(plain)):
            self._active = False
            self.failed = f"their loss would be {value:.6g} and not {plain:.6g}"

    def _give_up(self, error: Exception) -> None:
        self._active = False
        cause = getattr(error, "inner_exception", error)  # what a backend raised
        self.failed = self.failed or f"{type(cause).__name__}: {str(cause).strip().splitlines()[0][:200]}"


def _differentiable(hidden: Any) -> Any:
    """What a layer reads, with a gradient asked for: the first layer needs none, and would be compiled by itself."""
    return hidden if hidden.requires_grad else hidden.detach().requires_grad_()
