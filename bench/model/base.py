"""Loading the base: tokenizer, configuration and frozen weights, by transformers."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.data.batches import Batch
from bench.errors import ModelNotUsable
from bench.model.quantization import QUANTIZATIONS, quiet_bitsandbytes
from bench.specs import ModelSpec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
EMBEDDED = Path(__file__).parent / "embedded"


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Progress bars and log messages of transformers are off inside."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


@contextlib.contextmanager
def explained(spec: ModelSpec, what: str = "cannot be loaded") -> Iterator[None]:
    """Any exception of transformers inside becomes one sentence: the model ``what``, why, and what to use instead."""
    try:
        yield
    except ModelNotUsable:
        raise
    except torch.OutOfMemoryError as error:
        raise ModelNotUsable(
            f"{spec.id} does not fit into the memory of the device: use --quantization int8 or nf4, --dtype bfloat16, "
            "or a smaller model."
        ) from error
    except Exception as error:  # missing files, damaged files, unknown architectures, remote code: many kinds
        reason = str(error).strip().split("\n")[0][:300]
        how = "" if spec.quantization == "none" else f" in {spec.quantization}"
        raise ModelNotUsable(
            f"{spec.id} {what}{how} ({type(error).__name__}: {reason}). "
            "Give a causal language model of transformers that needs no code of its own, with its tokenizer and its "
            "weights as safetensors."
        ) from error


def load_tokenizer(spec: ModelSpec, folder: Path | str) -> Any:
    """The model's own tokenizer."""
    from transformers import AutoTokenizer

    with silence(), explained(spec):
        return AutoTokenizer.from_pretrained(folder, **_safely(spec, folder))


def _safely(spec: ModelSpec, folder: Path | str) -> dict[str, Any]:
    """Options of every load: no code from the model's files, and a hub model at its pinned commit."""
    return {"trust_remote_code": False, **({"revision": spec.revision} if isinstance(folder, str) else {})}


def read_config(spec: ModelSpec, folder: Path | str) -> Any:
    """The configuration of a causal language model.

    Raises:
        ModelNotUsable: it is missing or damaged, or that of another kind of model.
    """
    from transformers import AutoConfig

    with silence(), explained(spec):
        config = AutoConfig.from_pretrained(folder, **_safely(spec, folder))
    if config.is_encoder_decoder:
        raise ModelNotUsable(f"{spec.id} is an encoder-decoder: use a causal (decoder-only) language model.")
    if getattr(config, "quantization_config", None) is not None:
        raise ModelNotUsable(
            f"The weights of {spec.id} are stored quantised: use the original ones and let --quantization do it."
        )
    return config


def load_base(spec: ModelSpec, folder: Path | str, device: torch.device) -> Any:
    """The frozen causal language model on ``device``, in the spec's dtype and quantisation.

    Raises:
        ModelNotUsable: files are missing or damaged, or the model is of a kind that cannot be used.
    """
    from transformers import AutoModelForCausalLM

    dtype, quantization = DTYPES[spec.dtype], QUANTIZATIONS[spec.quantization]
    read_config(spec, folder)
    quiet_bitsandbytes()
    quantization.ready()
    options = {**_safely(spec, folder), "dtype": dtype, "use_safetensors": True, "ignore_mismatched_sizes": True}
    settings = quantization.config(dtype)
    if settings is not None:
        options |= {"quantization_config": settings, "device_map": {"": str(device)}}
    loader: Any = AutoModelForCausalLM
    with silence(), explained(spec):
        model, report = loader.from_pretrained(folder, output_loading_info=True, **options)
    if lacking := sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}):
        raise ModelNotUsable(
            f"The files of {spec.id} lack {len(lacking)} of the model's weights (or have them in another shape), such "
            f"as {lacking[0]}, and random ones would stand in for them: use a complete causal language model."
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ModelNotUsable(f"{spec.id} comes with an adapter of its own: merge it into the weights, or remove it.")
    quantization.adjust(model, device, dtype)
    if settings is None:
        model.to(device)
    elif all(parameter.is_floating_point() for parameter in model.parameters()):
        raise ModelNotUsable(f"bitsandbytes quantises no layer of {spec.id}: use --quantization none.")
    return model.requires_grad_(False)


def output_layer(base: Any, spec: ModelSpec) -> Any:
    """The layer that maps the last hidden state to the vocabulary.

    Raises:
        ModelNotUsable: the model has none with one weight row per token.
    """
    head = base.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or not weight.is_floating_point():
        raise ModelNotUsable(f"{spec.id} has no output layer with a weight per token: use a causal language model.")
    return head


def accepted(base: Any, spec: ModelSpec) -> frozenset[str]:
    """Names of the arguments of the base's forward pass.

    Raises:
        ModelNotUsable: an attention mask is not among them.
    """
    names = frozenset(inspect.signature(base.forward).parameters)
    if "attention_mask" not in names:
        raise ModelNotUsable(f"{spec.id} takes no attention mask, so padded batches would change its answers.")
    return names


def forward_inputs(accepts: frozenset[str], batch: Batch) -> dict[str, Any]:
    """The arguments of the base's forward pass for a batch, as far as it ``accepts`` them."""
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    optional = {"position_ids": batch.position_ids, "use_cache": False, "logits_to_keep": 1}
    inputs.update({name: value for name, value in optional.items() if name in accepts})
    return inputs
