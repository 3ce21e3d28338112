"""An adapter of the user's: a folder that PEFT saved, read with checks and identified by the hash of its weights.

What can be run on it is a LoRA whose function the suite computes exactly: one rank and one alpha, no trained biases and
no other trained modules. Everything else in ``adapter_config.json`` must have PEFT's default, or is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from bench.errors import ModelNotUsable
from bench.model.adapters import HEAD, MAGNITUDE, VARIANTS, peft_defaults
from bench.model.choice_model import ChoiceModel
from bench.model.formats import EMBEDDED
from bench.specs import LoraSpec, ModelSpec

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX, BASE = "base_model.model.", ".base_layer.weight"
HEADS = ("lm_head", "embed_out")  # names of output layers; the suite's target for them is `head`
# fields that are read, or that only matter while an adapter is made
READ = {
    "base_model_name_or_path", "revision", "r", "lora_alpha", "lora_dropout", "target_modules", "use_dora",
    "use_rslora", "peft_type", "task_type", "inference_mode", "init_lora_weights", "exclude_modules",
    "layers_to_transform", "layers_pattern", "fan_in_fan_out", "auto_mapping", "peft_version", "loftq_config",
    "corda_config", "eva_config", "runtime_config", "ensure_weight_tying",
}  # fmt: skip
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva", None)  # the others change the base's weights


@dataclasses.dataclass(frozen=True)
class OwnAdapter:
    """What an adapter's folder says.

    Attributes:
        path: the folder.
        content: the first 16 hex digits of the SHA-256 of its weights file.
        lora: its form, as the suite's spec.
        base: the base that it was trained on, "" if it does not say.
        revision: the base's revision, "" if it does not say.
    """

    path: Path
    content: str
    lora: LoraSpec
    base: str
    revision: str


def find_adapter(name: str, folder: Path | None = None) -> Path:
    """The folder of an adapter: a local one, of the working directory or ``folder``, or one of the hub.

    Raises:
        ModelNotUsable: there is neither.
    """
    from bench.specs.toml import expanded

    for place in (expanded(name), *([folder / expanded(name)] if folder else [])):
        if place.is_dir():
            return place
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise ModelNotUsable(f"There is no folder {name}: give --adapter the folder of an adapter that PEFT saved.")
    from huggingface_hub import snapshot_download

    from bench.data.hub import online

    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS], local_files_only=not online()))
    except Exception as error:  # the hub client raises many kinds; all of them mean the same to the user
        raise ModelNotUsable(
            f"There is no folder {name}, and no adapter of that name on the hub or in its cache "
            f"({type(error).__name__}): check the name, or fetch it first with `hf download {name}`."
        ) from error


def read_adapter(path: Path) -> OwnAdapter:
    """The adapter in a folder; of the weights only the names are read.

    Raises:
        ModelNotUsable: a file is missing or damaged, or it is no LoRA that the suite computes exactly.
    """
    config = _config(path)
    if config.get("peft_type") != "LORA":
        raise ModelNotUsable(f"{path} is an adapter of type {config.get('peft_type')}: the suite reads LoRA alone.")
    start = config.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        raise ModelNotUsable(
            f"{path} was initialised by '{start}', which changes the base's weights: convert it to plain LoRA with "
            "PEFT's `path_initial_model_for_weight_conversion`, and give that folder."
        )
    if any(".lora_embedding_" in name for name in _names(path)):
        raise ModelNotUsable(f"{path} adapts embeddings, which the suite does not support: use a LoRA without them.")
    defaults = peft_defaults()
    for name, value in config.items():
        default = defaults.get(name)
        if name not in READ and value != default and (value or default):  # PEFT writes some of its nulls as []
            raise ModelNotUsable(
                f"{path} has {name} = {json.dumps(value)[:80]} in {CONFIG}, which the suite does not compute: give a "
                "LoRA without it."
            )
    variant = {(False, False): "lora", (True, False): "dora", (False, True): "rslora"}.get(
        (bool(config.get("use_dora")), bool(config.get("use_rslora")))
    )
    if variant is None:
        raise ModelNotUsable(f"{path} is DoRA and rsLoRA at once: the suite has {', '.join(VARIANTS)}, one at a time.")
    try:
        lora = LoraSpec(
            r=int(config["r"]),
            alpha=float(config["lora_alpha"]),
            dropout=float(config.get("lora_dropout", 0.0)),
            targets=_targets(config, path),
            variant=variant,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelNotUsable(f"{path}/{CONFIG} is damaged ({error}): save the adapter again with PEFT.") from error
    base, revision = config.get("base_model_name_or_path") or "", config.get("revision") or ""
    return OwnAdapter(path, _content(path), lora, str(base), str(revision))


def check_fits(adapter: OwnAdapter, spec: ModelSpec, path: Path | None) -> None:
    """Refuse a base of the hub that is not the one that the adapter names. Folders are compared by shapes, at loading.

    Raises:
        ModelNotUsable: it is another.
    """
    hub = adapter.base and not Path(adapter.base).exists() and adapter.base.count("/") <= 1
    if hub and path is None and adapter.base.lower() != spec.id.lower():
        raise ModelNotUsable(
            f"{adapter.path} was trained on {adapter.base}, and the base is {spec.id}: use --model {adapter.base}."
        )


def named_base(adapter: OwnAdapter) -> dict[str, str]:
    """The keys of a ``[model]`` table that name the adapter's own base."""
    if not adapter.base:
        raise ModelNotUsable(f"{adapter.path} does not name its base: name it with --model.")
    if adapter.base == str(EMBEDDED):
        return {"id": "embedded"}
    revision = {"revision": adapter.revision} if adapter.revision and not Path(adapter.base).exists() else {}
    return {"id": adapter.base, **revision}


def adapter_values(path: Path, content: str, model: ChoiceModel) -> dict[str, Tensor]:
    """The adapter's values by the names of ``model.params``, in float32; of an adapted output layer the answers' rows.

    Raises:
        ModelNotUsable: the weights are not those whose hash is ``content``, or do not fit the model's adapters.
    """
    from safetensors.torch import load_file

    if (now := _content(path)) != content:
        raise ModelNotUsable(
            f"{path} no longer holds the adapter {content or 'that the run was planned with'}: its weights have "
            f"changed (now {now}). Put them back, or plan the run again."
        )
    found = {_short(name): tensor for name, tensor in load_file(path / WEIGHTS).items()}
    wanted = model.params
    for name in [name for name in found if name.endswith(BASE)]:  # PEFT saves an adapted output layer, too
        _check_same_rows(found.pop(name), model, path)
    if whole := sorted(name for name in found if ".lora_" not in name):
        raise ModelNotUsable(
            f"{path} holds whole weights, such as {whole[0]} (of resized embeddings, say): merge it into the base, or "
            "train the adapter without them."
        )
    found = {name: value for name, value in found.items() if _layer(name) not in model.targets.left_out}
    if odd := sorted(found.keys() ^ wanted.keys()):
        whose = "the adapter's file has and the model's adapters lack" if odd[0] in found else "its file lacks"
        raise ModelNotUsable(
            f"{path} does not fit {model.name}: {len(odd)} matrices differ, such as {odd[0]}, which {whose}. Check "
            f"that {model.name} is its base."
        )
    head = {_layer(name) for name, adapter in model.adapters.items() if adapter.at_end}
    values = {}
    for name, parameter in wanted.items():
        value = found[name]
        if _layer(name) in head and ".lora_A." not in name:
            value = model.rows_of_answers(value)
        if value.shape != parameter.shape:
            raise ModelNotUsable(
                f"{path} does not fit {model.name}: {name} has shape {tuple(value.shape)}, and the base needs "
                f"{tuple(parameter.shape)}. Check that {model.name} is its base."
            )
        if not value.isfinite().all():
            raise ModelNotUsable(f"{path}: {name} has values that are not finite: the adapter's training diverged.")
        values[name] = value.to(parameter)
    return values


def no_adapter(content: str) -> NoReturn:
    """The reader where no adapter was given."""
    raise ModelNotUsable(f"The fit starts from the adapter {content or 'of a folder'}: name it with --adapter FOLDER.")


def _check_same_rows(saved: Tensor, model: ChoiceModel, path: Path) -> None:
    base: Any = getattr(model.head, "base_layer", None)
    if base is None or not torch.equal(model.rows_of_answers(saved).to(base.weight), base.weight):
        raise ModelNotUsable(
            f"{path} holds an output layer that is not the base's: merge it into the base, or train the adapter "
            "without embeddings."
        )


def _layer(name: str) -> str:
    """The layer that a matrix of an adapter belongs to."""
    return name.partition(".lora_")[0]


def _short(name: str) -> str:
    short = name.removeprefix(PREFIX)
    return f"{short}.weight" if short.endswith(MAGNITUDE) else short


def _config(path: Path) -> dict[str, Any]:
    if not (path / CONFIG).is_file():
        raise ModelNotUsable(f"{path} has no {CONFIG}: give --adapter the folder of an adapter that PEFT saved.")
    if not (path / WEIGHTS).is_file():
        raise ModelNotUsable(f"{path} has no {WEIGHTS}: save the adapter as safetensors (pickled weights are refused).")
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelNotUsable(f"{path}/{CONFIG} cannot be read ({error}): save the adapter again with PEFT.") from error
    return config


def _targets(config: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """``lora.targets``: the names in the configuration; full names of layers where it has a pattern or a choice."""
    named = config.get("target_modules")
    restricted = any(config.get(name) for name in ("layers_to_transform", "exclude_modules"))
    if isinstance(named, list) and not restricted:
        chosen = {str(name) for name in named}
    else:
        chosen = {_short(name).partition(".lora_")[0] for name in _names(path)}
    return tuple(sorted(HEAD if name.rpartition(".")[2] in HEADS else name for name in chosen))


def _names(path: Path) -> list[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path / WEIGHTS, framework="pt") as stored:
            return list(stored.keys())
    except (SafetensorError, OSError) as error:
        raise ModelNotUsable(f"{path / WEIGHTS} is damaged ({error}): save the adapter again with PEFT.") from error


def _content(path: Path) -> str:
    try:
        with (path / WEIGHTS).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    except OSError as error:
        raise ModelNotUsable(f"{path / WEIGHTS} cannot be read ({error.strerror or error}).") from error
