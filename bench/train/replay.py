"""Training steps of a small base on a CPU, replayed as a flat list of tensor operations: the same bits in less time.

A good part of such a step is spent between the operations, in modules, in PEFT's wrappers and in autograd. When
batches of one mask have come up a few times, one step is recorded: every operation that depends on the batch, the
adapters or random numbers goes into a graph, and all others, such as rotary tables, are constants of it. A replay makes
the same calls in the same order, dropout's draws too, on the batch and the adapters as they are then.

A recording only stands for steps that take the way that it took. So the mask, or the positions and the ends of a packed
row, is part of what is recorded, no hook may be there, and the step after the recording is computed both ways: one bit
of difference, and it is never replayed.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from bench.data.batches import Batch
from bench.model.choice_model import ChoiceModel
from bench.model.forward.at_ends import watched

FIRST = 3  # the batch of a mask that is recorded; the next one is computed both ways
RECORDED, WAYS = 4, 64  # masks that are recorded, and counted, at most
SHORT = 200  # steps of a training at least: to record costs as much as twenty

ATEN = torch.ops.aten
BOUND = {  # operations whose Python binding calls the same kernel in less than half the time
    ATEN.view.default: Tensor.view, ATEN._unsafe_view.default: Tensor.view, ATEN.expand.default: Tensor.expand,
    ATEN.t.default: torch.t, ATEN.transpose.int: torch.transpose, ATEN.mm.default: torch.mm,
    ATEN.bmm.default: torch.bmm, ATEN.mul.Tensor: torch.mul, ATEN.mul.Scalar: torch.mul, ATEN.add.Tensor: torch.add,
    ATEN.neg.default: torch.neg, ATEN.div.Scalar: torch.div, ATEN.pow.Tensor_Scalar: torch.pow,
    ATEN.rsqrt.default: torch.rsqrt, ATEN.cat.default: torch.cat,
}  # fmt: skip
Replay = Callable[..., tuple[Tensor, ...]]
Way = tuple[Any, ...]


def pays(model: ChoiceModel, parameters: Sequence[Tensor], steps: int) -> bool:
    """Whether replays save time in ``steps`` steps, and ``parameters`` are all of the model that gets gradients."""
    known = {id(parameter) for parameter in parameters}
    trained = (weight for weight in model.network.parameters() if weight.requires_grad)
    return model.small and steps >= SHORT and all(id(weight) in known for weight in trained)


class NotRecordable(Exception):
    """A step that may take another way, or compute with other numbers, at the next batch."""


def hooked(parameter: Tensor) -> bool:
    """Whether autograd calls somebody's function with the gradient of a parameter."""
    hooks: Any = parameter
    return bool(hooks._backward_hooks or hooks._post_accumulate_grad_hooks)


class ReplayedLoss:
    """``objective`` and its backward pass: returns the loss, and sets ``p.grad`` of all ``parameters``.

    Replayed where that is the same, and otherwise computed as it is.

    Attributes:
        replayed: the number of steps that were replayed.
    """

    def __init__(self, objective: Callable[[Batch], Tensor], model: ChoiceModel, parameters: Sequence[Tensor]) -> None:
        self._objective, self._parameters = objective, list(parameters)
        self._others = [one for one in model.params.values() if all(one is not mine for mine in parameters)]
        self._modules = list(model.network.modules())
        self._dropouts = [module for module in self._modules if isinstance(module, nn.Dropout)]
        self._seen: Counter[Way] = Counter()
        self._recorded: dict[Way, Replay] = {}
        self.replayed = 0

    def __call__(self, batch: Batch) -> Tensor:
        way = self._way(batch)
        if way is None:
            return self._run(batch)
        self._seen[way] += 1
        if self._seen[way] == FIRST and len(self._recorded) < RECORDED:
            return self._record(batch, way)
        replay = self._recorded.get(way)
        if replay is None:
            return self._run(batch)
        if self._seen[way] == FIRST + 1:
            return self._verify(batch, way)
        self.replayed += 1
        return self._take(*self._replay(batch, replay))

    def _way(self, batch: Batch) -> Way | None:
        """What decides which operations a step consists of; None where more does than is known here."""
        clear = all(parameter.grad is None for parameter in self._parameters)
        if not clear or any(map(watched, self._modules)) or any(map(hooked, self._parameters)):
            return None
        row = batch.packed
        mask = batch.attention_mask if row is None else torch.cat([row.position_ids[0], row.ends])
        shape = (*mask.shape, row is not None)
        way = (*shape, mask.numpy().tobytes(), *((one.p, one.training) for one in self._dropouts))
        return way if way in self._seen or len(self._seen) < WAYS else None

    def _run(self, batch: Batch) -> Tensor:
        loss = self._objective(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _record(self, batch: Batch, way: Way) -> Tensor:
        """The step as it is; what it did is recorded."""
        before = torch.get_rng_state()
        recorder = Recorder(self._inputs(batch))
        try:
            with recorder:
                loss = self._objective(batch)
                gradients = torch.autograd.grad(loss, self._parameters)
            self._recorded[way] = recorder.replay([loss, *gradients])
        except (NotRecordable, RuntimeError):  # autograd's own error: a parameter that the loss does not depend on
            torch.set_rng_state(before)
            return self._run(batch)
        return self._take(loss.detach(), *gradients)

    def _verify(self, batch: Batch, way: Way) -> Tensor:
        """The step as it is; its recording is dropped if it gives other bits or draws other numbers."""
        before = torch.get_rng_state()
        found = [*self._replay(batch, self._recorded[way]), torch.get_rng_state()]
        torch.set_rng_state(before)
        loss = self._run(batch)
        wanted = [loss, *(parameter.grad for parameter in self._parameters), torch.get_rng_state()]
        if not all(b is not None and torch.equal(a, b) for a, b in zip(found, wanted, strict=True)):
            del self._recorded[way]
        return loss

    def _replay(self, batch: Batch, replay: Replay) -> list[Tensor]:
        with torch.inference_mode():  # no version counters and no views to keep track of
            found = replay(*self._inputs(batch))
        return [tensor.clone() for tensor in found]  # ordinary tensors, which may be changed in place

    def _inputs(self, batch: Batch) -> list[Tensor]:
        return [(batch.packed or batch).input_ids, batch.labels, *self._parameters, *self._others]

    def _take(self, loss: Tensor, *gradients: Tensor) -> Tensor:
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        return loss


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs what is called inside it, and records what depends on ``inputs`` or on random numbers."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph = fx.Graph()
        self._nodes = {id(tensor): self._graph.placeholder(f"input_{n}") for n, tensor in enumerate(inputs)}
        self._constants: dict[int, tuple[Tensor, fx.Node]] = {}
        self._alive: list[Any] = [*inputs]  # so that no id is used twice
        self._memory: set[int] = set()  # of all tensors that replays compute

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self._alive.append((args, kwargs, out))
        if any(id(tensor) not in self._nodes for tensor in _changed(func, args, kwargs)):
            raise NotRecordable(f"{func} changes a tensor that replays do not compute")
        given = (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        if torch.Tag.nondeterministic_seeded in func.tags or any(id(tensor) in self._nodes for tensor in given):
            self._add(func, args, kwargs, out)
        return out

    def _add(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        open_ended = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags)
        if open_ended and not _by_places(func, args):
            raise NotRecordable(f"what {func} gives decides what is done next")
        if func is torch.ops.aten.detach.default:  # the same memory: only autograd tells the two apart
            self._nodes[id(out)] = self._nodes[id(args[0])]
            return
        call = BOUND.get(func, func)
        node = self._graph.call_function(call, tree_map(self._argument, args), tree_map(self._argument, kwargs))
        parts = [(out, node)]
        if not isinstance(out, Tensor):
            parts = [(one, self._graph.call_function(operator.getitem, (node, n))) for n, one in enumerate(out)]
        for tensor, value in parts:
            if isinstance(tensor, Tensor):
                self._nodes[id(tensor)] = value
                self._memory.add(tensor.untyped_storage().data_ptr())

    def _argument(self, value: Any) -> Any:
        """What stands for an argument in the graph."""
        if not isinstance(value, Tensor):
            return value
        if id(value) in self._nodes:
            return self._nodes[id(value)]
        if value.untyped_storage().data_ptr() in self._memory:
            raise NotRecordable("a tensor came up that no recorded operation returned")
        if id(value) not in self._constants:
            self._constants[id(value)] = value, self._graph.placeholder(f"constant_{len(self._constants)}")
        return self._constants[id(value)][1]

    def replay(self, outputs: Sequence[Tensor]) -> Replay:
        """A function of the inputs that gives ``outputs``."""
        self._graph.output(tuple(self._argument(tensor) for tensor in outputs))
        run, constants = fx.GraphModule({}, self._graph).forward, [tensor for tensor, _ in self._constants.values()]
        return lambda *inputs: run(*inputs, *constants)


def _by_places(func: Any, args: Sequence[Any]) -> bool:
    """Whether an operation picks entries by their places, as many as there are places."""
    return func is ATEN.index.Tensor and all(one is None or one.dtype != torch.bool for one in args[1])


def _changed(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors that an operation changes in place."""
    if not func._schema.is_mutable:
        return []
    written = [one for one in func._schema.arguments if one.alias_info is not None and one.alias_info.is_write]
    names = [one.name for one in func._schema.arguments]
    values = [*(kwargs[one.name] if one.name in kwargs else args[names.index(one.name)] for one in written)]
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
