"""The trainable adapters: which layers they adapt, and where each of their parameters lives. The only user of peft."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.errors import ModelNotUsable, near_miss, one_line
from bench.model.placement import device_of
from bench.specs import LoraSpec

NAME = "default"  # PEFT's name of the one adapter that we add
HEAD = "head"  # the target that stands for the answer rows of the output layer
VARIANTS: dict[str, dict[str, Any]] = {"lora": {}, "dora": {"use_dora": True}, "rslora": {"use_rslora": True}}
MAGNITUDE = "lora_magnitude_vector"  # in the names of DoRA's magnitudes, which initialise to the weights' norms


class Adapter(NamedTuple):
    """The place of an adapter matrix: the linear map whose weight it is, and the layer of the base that it adapts.

    ``first``: the map reads the layer's input (A does; B reads the output of A). ``at_end``: the layer is the answer
    head, of which only the output at the last position is ever used.
    """

    linear: nn.Module
    host: nn.Module
    first: bool
    at_end: bool = False


@dataclasses.dataclass(frozen=True)
class Targets:
    """The linear layers of one base that ``lora.targets`` selects.

    Attributes:
        layers: full names of the adapted linear layers, in the model's order.
        head: whether the answer rows are adapted, too.
        left_out: full names of layers that a target names but that no text passes (a vision tower).
    """

    layers: tuple[str, ...]
    head: bool
    left_out: tuple[str, ...]


def linear_layers(base: Any) -> dict[str, nn.Module]:
    """The base's linear layers by full name, without the output layer."""
    from transformers.pytorch_utils import Conv1D

    head = base.get_output_embeddings()
    return {n: m for n, m in base.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not head}


def choose_targets(lora: LoraSpec, name: str, layers: Collection[str], ran: Collection[str]) -> Targets:
    """Resolve ``lora.targets`` to full names of ``layers``, as far as text passes them (``ran``).

    A layer counts as passed if one of its kind ran: a name that differs only in numbers. So all experts of a mixture
    are adapted, whichever of them the probe was routed to, and a vision tower is not.

    Raises:
        ModelNotUsable: a target names no layer, or only layers that never run.
    """
    kinds = {_kind(layer) for layer in ran}
    named: set[str] = set()
    for target in lora.targets:
        if target == HEAD:
            continue
        found = {layer for layer in layers if _matches(layer, target)}
        if not found:
            known = {HEAD, *(layer.rsplit(".", 1)[-1] for layer in layers)}
            raise ModelNotUsable(
                f"{name} has no layer '{target}' for LoRA.{near_miss(target, known)} "
                "Set it with --set lora.targets=NAME,NAME."
            )
        if not any(_kind(layer) in kinds for layer in found):
            raise ModelNotUsable(
                f"LoRA on '{target}' would have no effect in {name}: its layers never run as linear maps. Choose other "
                "lora.targets."
            )
        named |= found
    chosen = tuple(layer for layer in layers if layer in named and _kind(layer) in kinds)
    left_out = tuple(layer for layer in layers if layer in named and _kind(layer) not in kinds)
    return Targets(chosen, HEAD in lora.targets, left_out)


def _matches(layer: str, target: str) -> bool:
    """Whether ``target`` is the end of a layer's name, or a pattern (``*``, ``?``, ``[]``) of the whole name."""
    if any(sign in target for sign in "*?["):
        return fnmatch.fnmatchcase(layer, target)
    return f".{layer}".endswith(f".{target}")


def _kind(layer: str) -> str:
    return re.sub(r"\d+", "#", layer)


def add_lora(base: nn.Module, lora: LoraSpec, layers: Sequence[str]) -> None:
    """Adapt ``layers`` (full names) of the base in place; adapters in float32 whatever the base is in.

    Raises:
        ModelNotUsable: DoRA is asked for, and the weights that it reads are offloaded; or PEFT does not adapt these
            layers, or others.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if not layers:
        return
    if "dora" in lora.variant and (away := [name for name in layers if base.get_submodule(name).weight.is_meta]):
        raise ModelNotUsable(
            f"DoRA reads the weights of the layers that it adapts, and --device-map offloads such as {away[0]}: use "
            "lora.variant=lora, or a map that keeps them on a GPU."
        )
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(layers),
        **VARIANTS[lora.variant],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT remarks on fan_in_fan_out for GPT-2's Conv1D, and sets it right
        try:
            inject_adapter_in_model(config, base, adapter_name=NAME)
        except ValueError as error:
            raise ModelNotUsable(
                f"PEFT cannot adapt the layers that lora.targets names, such as {layers[0]} ({one_line(error)}): "
                "choose other lora.targets."
            ) from error
    found = {name.partition(".lora_")[0] for name, _ in base.named_parameters() if _trains(name)}
    if odd := sorted(found ^ set(layers)):
        raise ModelNotUsable(
            f"PEFT adapts the fused experts of this mixture in place of layers that lora.targets names (they differ in "
            f"{odd[0]}): choose targets outside the experts, such as those of the attention."
        )
    for name, parameter in list(base.named_parameters()):
        if not _trains(name):
            continue
        if parameter.is_meta:  # PEFT puts them where the weights are, and those are offloaded: prepare() sets values
            host: Any = base.get_submodule(name[: name.index(".lora_")])
            owner, _, leaf = name.rpartition(".")
            value = torch.zeros(parameter.shape, device=device_of(host.get_base_layer()))
            setattr(base.get_submodule(owner), leaf, nn.Parameter(value))
        else:
            parameter.data = parameter.data.float()  # PROTOCOL: code
    for module in base.modules():
        layer: Any = module
        for dora in getattr(layer, MAGNITUDE, {}).values():
            dora.weight.data = _row_norms(layer.get_base_layer(), dora.fan_in_fan_out)


def peft_defaults() -> dict[str, Any]:
    """The fields of PEFT's ``adapter_config.json`` at their defaults."""
    from peft import LoraConfig

    plain: dict[str, Any] = json.loads(json.dumps(LoraConfig().to_dict(), default=list))
    return plain


def _row_norms(layer: Any, transposed: bool) -> Tensor:
    """(out,): the norm of each output's weights, in float32 (PEFT rounds it to the base's dtype)."""
    from peft.utils.integrations import dequantize_module_weight

    weight = dequantize_module_weight(layer).detach().float()
    norms: Tensor = torch.linalg.vector_norm(weight.T if transposed else weight, dim=1)
    return norms


def adapted_rows(rows: nn.Linear, lora: LoraSpec) -> nn.Module:
    """The answer rows (C, d) with LoRA: A (r, d), B (C, r)."""
    holder = nn.ModuleDict({HEAD: rows})
    with torch.random.fork_rng(devices=[]):  # PEFT draws initial values, which prepare() replaces
        add_lora(holder, lora, [HEAD])
    return holder[HEAD].eval()


def _trains(full: str) -> bool:
    return f".{NAME}" in full and "lora_" in full


@dataclasses.dataclass
class Parameters:
    """The adapter parameters of a base, in the model's order, by short name (without PEFT's ``.default``).

    Attributes:
        module: the base that they are in.
        values: short name -> parameter.
        shapes: short name -> its shape.
        full: short name -> its name in the module.
        places: short name of a matrix -> the map and the layer it belongs to (DoRA's magnitudes belong to none).
        dropouts: the dropout layers of the adapters.
    """

    module: nn.Module
    values: dict[str, nn.Parameter]
    shapes: dict[str, torch.Size]
    full: dict[str, str]
    places: dict[str, Adapter]
    dropouts: list[nn.Dropout]

    @classmethod
    def of(
        cls, module: nn.Module, head: nn.Module | None = None, shapes: Mapping[str, torch.Size] | None = None
    ) -> Parameters:
        """Find the adapters of ``module`` and freeze everything else.

        ``head``: its answer head, which is new; ``shapes``: what is known of the shapes of the others.
        """
        values, full_names, places, sizes = {}, {}, {}, {}
        find = module.get_submodule
        for full, parameter in module.named_parameters():
            parameter.requires_grad_(_trains(full))
            if not _trains(full):
                continue
            short = full.replace(f".{NAME}", "")
            values[short], full_names[short] = parameter, full
            host = find(full[: full.index(".lora_")])
            sizes[short] = parameter.shape if shapes is None or host is head else shapes[short]
            if MAGNITUDE not in full:
                places[short] = Adapter(find(full.removesuffix(".weight")), host, ".lora_A." in full, host is head)
        dropouts = [m for name, m in module.named_modules() if "lora_dropout" in name and isinstance(m, nn.Dropout)]
        return cls(module, values, sizes, full_names, places, dropouts)

    def renew(self, name: str, value: Tensor) -> None:
        """Replace a parameter by a new one, which has no gradient, no hooks and no history."""
        owner, _, leaf = self.full[name].rpartition(".")
        parameter = nn.Parameter(value.to(self.values[name]))
        setattr(self.module.get_submodule(owner), leaf, parameter)
        self.values[name] = parameter

    def magnitudes(self) -> dict[str, Tensor]:
        """A copy of DoRA's magnitudes by short name; empty for other variants."""
        return {name: value.detach().clone() for name, value in self.values.items() if MAGNITUDE in name}
