"""Loading the base: tokenizer, configuration and frozen weights, by transformers."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.data.batches import Batch
from bench.errors import ModelNotUsable
from bench.model.formats import Source
from bench.model.forward.packed_attention import LENGTHS, NAME, SHARED
from bench.model.placement import DeviceMap, check_accelerate, quiet
from bench.model.quantization import QUANTIZATIONS, import_bitsandbytes
from bench.model.remarks import check_loaded, check_tokenizer, check_weights, collected, worth_showing
from bench.process.garbage import uncollected
from bench.specs import ModelSpec

LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")  # names of the number of layers in config.json
MOST_LAYERS = 1000
OTHER_KINDS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "RewardModel")
LIBRARIES = (  # what loading a base imports
    "peft",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.tokenization_utils_base",
)


@contextlib.contextmanager
def explained(name: str, spec: ModelSpec, what: str = "cannot be loaded") -> Iterator[None]:
    """Any exception of transformers inside becomes one sentence: the model ``what``, why, and what to use instead."""
    try:
        yield
    except ModelNotUsable:
        raise
    except torch.OutOfMemoryError as error:
        raise ModelNotUsable(
            f"{name} does not fit into the memory of the device: use --quantization int8 or nf4, --dtype bfloat16, "
            "or a smaller model."
        ) from error
    except Exception as error:  # missing files, damaged files, unknown architectures, remote code: many kinds
        reason = str(error).strip().split("\n")[0][:300]
        how = "" if spec.quantization == "none" else f" in {spec.quantization}"
        first = "Try --quantization none, or give" if how else "Give"
        raise ModelNotUsable(
            f"{name} {what}{how} ({type(error).__name__}: {reason}). "
            f"{first} a causal language model of transformers that needs no custom code, with its tokenizer and its "
            "weights as safetensors."
        ) from error


@dataclasses.dataclass(frozen=True)
class Base:
    """A frozen causal language model.

    Attributes:
        name: what messages call it.
        model: the module of transformers.
        tokenizer: its own tokenizer.
        head: the layer that maps the last hidden state to the vocabulary.
        accepts: names of the arguments of its forward pass.
        warnings: sentences that users of its numbers should read.
    """

    name: str
    model: Any
    tokenizer: Any
    head: Any
    accepts: frozenset[str]
    warnings: tuple[str, ...]

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """The arguments of the forward pass for a batch, as far as the model accepts them."""
        row, keep = batch.packed or batch, batch.packed.ends if batch.packed else 1
        inputs: dict[str, Any] = {"input_ids": row.input_ids}
        if isinstance(row, Batch):
            inputs["attention_mask"] = row.attention_mask
        optional = {"position_ids": row.position_ids, "use_cache": False, "logits_to_keep": keep}
        inputs.update({name: value for name, value in optional.items() if name in self.accepts})
        if batch.packed and self.model.config._attn_implementation == NAME:
            inputs |= {LENGTHS: batch.packed.lengths, SHARED: batch.packed.shared}
        return inputs

    def at_ends(self, batch: Batch, tensor: Tensor) -> Tensor:
        """(B, ...): ``tensor``, whose first axes are those of the model's logits, at the ends of the prompts."""
        if batch.packed is None:
            return tensor[:, -1]
        return tensor[0] if "logits_to_keep" in self.accepts else tensor[0, batch.packed.ends]


def read_config(spec: ModelSpec, source: Source) -> Any:
    """The configuration of a causal language model.

    Raises:
        ModelNotUsable: it is missing or damaged, or that of another kind of model.
    """
    with collected(), explained(source.name, spec):
        return _read_config(source)


def _read_config(source: Source) -> Any:
    from transformers import AutoConfig

    _check_size(source)
    config = AutoConfig.from_pretrained(source.place, trust_remote_code=False, **source.options)
    check_kind(source.name, config)
    if getattr(config, "quantization_config", None) is not None:
        raise ModelNotUsable(
            f"The weights of {source.name} are stored quantised: use the original ones and let --quantization do it."
        )
    return config


def check_kind(name: str, config: Any) -> None:
    """Refuse an encoder-decoder, and a classifier, whose body would be read with the embeddings as its output layer.

    Raises:
        ModelNotUsable: it is one.
    """
    if config.is_encoder_decoder:
        raise ModelNotUsable(f"{name} is an encoder-decoder: use a causal (decoder-only) language model.")
    for kind in getattr(config, "architectures", None) or ():
        if str(kind).endswith(OTHER_KINDS):
            raise ModelNotUsable(f"{name} is a {kind}: use the causal language model that it was made from.")


def load_tokenizer(spec: ModelSpec, source: Source) -> Any:
    """The base's own tokenizer.

    Raises:
        ModelNotUsable: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    with collected(), explained(source.name, spec):
        return AutoTokenizer.from_pretrained(source.place, trust_remote_code=False, **source.options)


@uncollected()
def load_libraries() -> None:
    """Import transformers and PEFT, and bitsandbytes where it is installed: PEFT imports it in any case."""
    with contextlib.suppress(Exception):  # PEFT says what is wrong with it, if anything is
        import_bitsandbytes()
    for library in LIBRARIES:
        importlib.import_module(library)


def load_base(spec: ModelSpec, source: Source, device: torch.device, placed: DeviceMap | None = None) -> Base:
    """Tokenizer and frozen weights on ``device``, or where ``placed`` says, in the spec's dtype and quantisation.

    Raises:
        ModelNotUsable: files are missing or damaged, or the model is of a kind that cannot be used.
    """
    QUANTIZATIONS[spec.quantization].ready()
    load_libraries()
    from transformers import AutoTokenizer

    with collected() as said, explained(source.name, spec):
        config = _read_config(source)
        tokenizer = AutoTokenizer.from_pretrained(
            source.place, config=config, trust_remote_code=False, **source.options
        )
        model, warnings = _load_model(spec, source, config, device, placed)
        warnings += check_tokenizer(
            source, tokenizer, _settings(source, "tokenizer_config.json").get("tokenizer_class")
        )
    warnings += worth_showing(said)
    head = output_layer(model, source.name)
    return Base(source.name, model, tokenizer, head, accepted(model, source.name), tuple(warnings))


def _load_model(
    spec: ModelSpec, source: Source, config: Any, device: torch.device, placed: DeviceMap | None
) -> tuple[Any, list[str]]:
    from transformers import AutoModelForCausalLM

    dtype, quantization = getattr(torch, spec.dtype), QUANTIZATIONS[spec.quantization]
    if spec.quantization != "none" and not source.quantizable:
        raise ModelNotUsable(
            f"{source.name} cannot be read and quantised at once: use --quantization none, or a folder of safetensors."
        )
    options = {
        "dtype": dtype,
        "use_safetensors": True,
        "ignore_mismatched_sizes": True,
        **source.options,
        **source.weights,
    }
    settings = quantization.config(dtype)
    if settings is not None:
        options |= {"quantization_config": settings, "device_map": {"": str(device)}}
    if placed is not None:
        check_accelerate()
        options["device_map"] = placed
    loader: Any = AutoModelForCausalLM
    with quiet():
        model, report = loader.from_pretrained(
            source.place, config=config, output_loading_info=True, trust_remote_code=False, **options
        )
    warnings = check_loaded(source, report)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ModelNotUsable(f"{source.name} comes with its own adapter: merge it into the weights, or remove it.")
    quantization.adjust(model, device, dtype)
    if settings is None:
        _copy_weights(model)
        if placed is None:
            model.to(device)
    elif all(parameter.is_floating_point() for parameter in model.parameters()):
        raise ModelNotUsable(f"No layer of {source.name} can be quantised to {spec.quantization}: use 'none'.")
    warnings += check_weights(source, model)
    return model.requires_grad_(False), warnings


def _copy_weights(model: nn.Module) -> None:
    """Weights in separate memory. As loaded, they may be a view of the file, which changes when the file does."""
    for tensor in (*model.parameters(), *model.buffers()):
        if not tensor.is_meta:
            tensor.data = tensor.data.clone()


def _settings(source: Source, file: str) -> dict[str, Any]:
    """The object in one of the base's JSON files; empty where there is none."""
    from transformers.utils import cached_file

    optional = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    keep = {name: value for name, value in source.options.items() if name in ("revision", "local_files_only")}
    found = cached_file(source.place, file, **keep, **optional)
    try:
        settings = json.loads(Path(found).read_text(encoding="utf-8")) if found else {}
    except (OSError, ValueError, RecursionError):
        return {}  # loading says what is wrong with it
    return settings if isinstance(settings, dict) else {}


def _check_size(source: Source) -> None:
    """Refuse a configuration with more layers than its files can hold, before they are built one by one."""

    def counts(value: Any) -> Iterator[tuple[str, float]]:
        for name, inner in value.items() if isinstance(value, dict) else ():
            if name in LAYERS and isinstance(inner, int | float):
                yield name, inner
            yield from counts(inner)

    limit = max(source.tensors, MOST_LAYERS // 10) if source.tensors else MOST_LAYERS
    for name, count in counts(_settings(source, "config.json")):
        if count > limit:
            held = f", and its files hold {source.tensors} tensors" if source.tensors else ""
            raise ModelNotUsable(f"The configuration of {source.name} has {name} = {count:.0f}{held}: correct it.")


def output_layer(model: Any, name: str) -> Any:
    """The layer that maps the last hidden state to the vocabulary.

    Raises:
        ModelNotUsable: the model has none with one weight row per token.
    """
    head = model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        raise ModelNotUsable(f"{name} has no output layer with a weight per token: use a causal language model.")
    return head


def repeated_layers(model: nn.Module, name: str, use: str) -> list[nn.Module]:
    """The layers that the model is a stack of, as far as transformers can checkpoint them.

    ``use`` is what they cannot be where there are none, and the fix: the end of a sentence.

    Raises:
        ModelNotUsable: it has none.
    """
    found = layers_of(model)
    if not found:
        raise ModelNotUsable(f"{name} has no layers that can be {use}.")
    return found


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The same, empty where there are none."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    kind: Any = GradientCheckpointingLayer
    found = [module for module in model.modules() if isinstance(module, kind)]
    inner = {id(module) for layer in found for module in layer.modules() if module is not layer}
    return [layer for layer in found if id(layer) not in inner]


def accepted(model: Any, name: str) -> frozenset[str]:
    """Names of the arguments of the model's forward pass.

    Raises:
        ModelNotUsable: an attention mask is not among them.
    """
    names = frozenset(inspect.signature(model.forward).parameters)
    if "attention_mask" not in names:
        raise ModelNotUsable(f"{name} takes no attention mask, so padded batches would change its answers.")
    return names
