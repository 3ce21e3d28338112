"""Quantisations of the base's linear layers. The only file that knows bitsandbytes.

A new quantisation is an entry of :data:`QUANTIZATIONS`.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bench.errors import ModelNotUsable

NO_COMPILER = "TORCHDYNAMO_DISABLE"  # torch.compile looks at it whenever it is called


def _unchanged(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Quantization:
    """A quantisation of the base's linear layers, applied while transformers loads them.

    Attributes:
        config: dtype -> the ``quantization_config`` of ``from_pretrained``, or None for weights as they are.
        ready: raises ModelNotUsable with a sentence if what it needs is not installed.
        adjust: called with the loaded model, its device and dtype.
        step: spacing to which it rounds the inputs of a layer, as a share of the largest entry of a row; 0: not at all.
    """

    config: Callable[[torch.dtype], Any] = lambda dtype: None
    ready: Callable[[], None] = lambda: None
    adjust: Callable[[nn.Module, torch.device, torch.dtype], None] = _unchanged
    step: float = 0.0


def _int8(dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True)


def _nf4(dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def import_bitsandbytes() -> None:
    """Import bitsandbytes, silent on import and on every int8 product.

    It hands functions to torch.compile when it is imported, for optimisers and devices that the suite does not use.
    That loads the compiler, which takes a second or two, so compiling is switched off meanwhile.
    """
    warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast")  # said at every int8 product
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    before = os.environ.get(NO_COMPILER)
    os.environ[NO_COMPILER] = "1"
    try:
        import bitsandbytes  # noqa: F401
    finally:
        del os.environ[NO_COMPILER]
        if before is not None:
            os.environ[NO_COMPILER] = before


def _bitsandbytes() -> None:
    try:
        import_bitsandbytes()
    except ImportError as error:
        raise ModelNotUsable(
            "int8 and nf4 need bitsandbytes: pip install bitsandbytes, or use --quantization none."
        ) from error


def _int8_on_cpu(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Two repairs of int8 layers on a CPU.

    bitsandbytes sets large entries of a float16 input to zero in place, then puts them back; autograd, which may need
    that tensor for its backward pass, then refuses it: the layer reads a copy. PEFT replaces the weight by a copy
    without its scales whenever DoRA dequantises it: the layer takes them from its state.
    """
    if device.type != "cpu":
        return

    def restore_scales(layer: Any, _: Any) -> None:
        if layer.weight.CB is not None and layer.weight.SCB is None:
            layer.weight.SCB = layer.state.SCB

    for module in model.modules():
        if type(module).__name__ == "Linear8bitLt":
            module.register_forward_pre_hook(restore_scales)
            if dtype == torch.float16:
                module.register_forward_pre_hook(lambda _, args: (args[0].clone(), *args[1:]))


def _portable_nf4(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Keep nf4 layers on the same path on every CPU.

    With AVX512-BF16, bitsandbytes repacks weights, which fails for widths that are not a multiple of its block size and
    yields other numbers than every other processor.
    """
    if device.type != "cpu":
        return
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


QUANTIZATIONS: dict[str, Quantization] = {
    "none": Quantization(),
    "int8": Quantization(_int8, _bitsandbytes, _int8_on_cpu, step=1 / 127),
    "nf4": Quantization(_nf4, _bitsandbytes, _portable_nf4),
}
