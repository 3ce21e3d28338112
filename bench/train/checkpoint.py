"""The checkpoint of a training: when it is written, what it holds, and when it may be believed."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from bench.model.choice_model import ChoiceModel
from bench.posterior import Params
from bench.process.reading import WRONG
from bench.process.writing import replacing
from bench.train.clock import Clock
from bench.train.tree import load_tree, save_tree

logger = logging.getLogger(__name__)


class Stateful(Protocol):
    """Anything a method keeps between steps and wants in the checkpoint: a collector of samples, moments, ..."""

    def state_dict(self) -> dict[str, Any]:
        """Nested dicts and lists of tensors and plain values."""

    def load_state_dict(self, state: Any) -> None:
        """Restore what :meth:`state_dict` returned."""


def check_state(state: Mapping[str, object]) -> None:
    """Refuse what no checkpoint could hold, before the first step rather than at the first checkpoint."""
    for name, value in state.items():
        if not all(callable(getattr(value, hook, None)) for hook in ("state_dict", "load_state_dict")):
            raise TypeError(
                f"job.train was given state {name!r}, a {type(value).__name__}: use an object with state_dict() and "
                "load_state_dict(state), such as bench.train.checkpoint.Snapshots."
            )


class Snapshots:
    """A list of adapter values collected during training; checkpointed with it."""

    def __init__(self) -> None:
        self.values: list[Params] = []

    def add(self, params: Params) -> None:
        """Keep a copy of ``params`` as they are now."""
        self.values.append({name: value.detach().clone() for name, value in params.items()})

    def state_dict(self) -> dict[str, Any]:
        return {"values": [dict(value) for value in self.values]}

    def load_state_dict(self, state: Any) -> None:
        self.values = list(state["values"])


@dataclasses.dataclass
class TrainState:
    """Everything that a training continues from after a kill.

    Attributes:
        fit: the key of the fit.
        parameters: the optimizer's tensors.
        extras: what the method keeps besides.
        trace: rows of the training curve so far.
        facts, warnings: what the method has noted so far for the record.
        running: loss summed since the last row of the trace.
        step: optimizer steps done.
    """

    fit: str
    model: ChoiceModel
    optimizer: torch.optim.Optimizer
    parameters: list[Tensor]
    extras: Mapping[str, Stateful]
    clock: Clock
    trace: list[dict[str, float]]
    facts: dict[str, Any]
    warnings: list[str]
    running: Tensor
    step: int = 0

    def tree(self) -> dict[str, Any]:
        """The state as nested dicts and lists of tensors and plain values."""
        return {
            "fit": self.fit,
            "step": self.step,
            "seconds": self.clock.seconds,
            "trace": json.dumps(self.trace),
            "facts": json.dumps(_plain(self.facts)),
            "warnings": json.dumps(list(map(str, self.warnings))),
            "running": self.running,
            "optimizer": self.optimizer.state_dict(),
            "parameters": self.parameters,
            "adapters": dict(self.model.params),
            "extras": {name: item.state_dict() for name, item in self.extras.items()},
        }

    def load(self, tree: Any) -> None:
        """Restore :meth:`tree`, whose tensors may be on another device.

        Raises:
            Exception: it is the state of another training. Part of this one's state has been replaced then.
        """
        if tree["fit"] != self.fit:
            raise ValueError(f"it belongs to fit {tree['fit']}")
        self.model.load(tree["adapters"])
        with torch.no_grad():
            for parameter, value in zip(self.parameters, tree["parameters"], strict=True):
                if value.shape != parameter.shape:  # copy_ would broadcast
                    raise ValueError(f"a parameter of shape {tuple(value.shape)}, not {tuple(parameter.shape)}")
                parameter.copy_(value)
        self.optimizer.load_state_dict(tree["optimizer"])
        for name, item in self.extras.items():
            item.load_state_dict(self._placed(tree["extras"][name]))
        self.trace[:] = json.loads(tree["trace"])
        _refill(self.facts, json.loads(tree["facts"]))
        self.warnings[:] = json.loads(tree["warnings"])
        self.step, self.clock.seconds = int(tree["step"]), float(tree["seconds"])
        self.running = tree["running"].to(self.model.device)

    def _placed(self, tree: Any, place: str | int = "") -> Any:
        """Tensors on the device of the adapter that they are named after; all others on the model's."""
        if isinstance(tree, Tensor):
            return tree.to(self.model.params[place].device if place in self.model.params else self.model.device)
        if isinstance(tree, dict):
            return {name: self._placed(value, name) for name, value in tree.items()}
        return [self._placed(value) for value in tree] if isinstance(tree, list | tuple) else tree


def _plain(value: Any) -> Any:
    """A fact as JSON data. What cannot be kept as it is becomes text: a note is not worth a training."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    try:
        found = value.tolist()  # of a tensor, or a value of numpy's
    except Exception:  # of any kind, such as of a sparse tensor
        return str(value)
    return str(value) if type(found) is type(value) else _plain(found)


def _refill(held: dict[str, Any], saved: Mapping[str, Any]) -> None:
    """Give ``held`` the content of ``saved``; lists and dictionaries that a method may hold stay the same objects."""
    for name in held.keys() - saved.keys():
        del held[name]
    for name, value in saved.items():
        if isinstance(value, dict) and isinstance(held.get(name), dict):
            _refill(held[name], value)
        elif isinstance(value, list) and isinstance(held.get(name), list):
            held[name][:] = value
        elif isinstance(known := held.get(name), Tensor):
            held[name] = torch.as_tensor(value, dtype=known.dtype, device=known.device)
        else:
            held[name] = value


@dataclasses.dataclass
class Checkpointing:
    """The checkpoint of one training: its folder, how often it is written, and the request to stop.

    Attributes:
        every_seconds: least time between two checkpoints.
        stop: the reason to stop, "" as long as there is none; then a last checkpoint is written and ``Stopped`` raised.
        began: told the first step that this process takes: 0, or the checkpoint's.
        code: what the numbers depend on besides the spec (code, versions of libraries). A checkpoint of other code is
            not continued.
    """

    file: Path
    every_seconds: float = 30.0
    stop: Callable[[], str] = lambda: ""
    began: Callable[[int], None] = lambda step: None
    code: Mapping[str, str] = dataclasses.field(default_factory=dict)
    _saved_at: float = 0.0  # by time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() - self._saved_at >= self.every_seconds

    def save(self, state: TrainState) -> None:
        """Replace the checkpoint in one step: a kill leaves the old one or the new one."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.file) as new:
            save_tree({**state.tree(), "code": dict(self.code)}, new)
        self._saved_at = time.monotonic()

    def resume(self, state: TrainState) -> None:
        """Continue from the checkpoint. Without one that can be used, start at step 0; a warning says what is wrong.

        Raises:
            OSError: it is there, and this process may not read it, or cannot now.
        """
        why = self._load(state) if self.file.exists() else ""
        if why:
            logger.warning("%s %s: training starts from step 0.", self.file, why)
        self.began(state.step)
        self._saved_at = time.monotonic()

    def _load(self, state: TrainState) -> str:
        """Load the checkpoint into ``state``, or leave it as it is and return the reason."""
        try:
            self.file.open("rb").close()
        except OSError as error:
            if error.errno not in WRONG:  # it may be sound, and would be replaced
                raise
        try:
            tree = load_tree(self.file)
            code = dict(tree["code"])
        except Exception as error:  # whatever is wrong with the file, the training can start again without it
            return f"is damaged ({type(error).__name__}: {error})"
        if changed := sorted(name for name in {*code, *self.code} if code.get(name) != self.code.get(name)):
            return f"was written with other code (changed since: {', '.join(changed)})"
        fresh = copy.deepcopy(state.tree())
        try:
            state.load(tree)
        except Exception as error:  # of any kind: the optimizer's and the method's own code read it too
            state.load(fresh)
            return f"does not fit this training ({type(error).__name__}: {error})"
        return ""
