"""Checks of what a method returns, before anything is stored or scored: a stored result is never computed again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.errors import one_line
from bench.posterior import Posterior

SUM_TOLERANCE = 1e-3  # of the probabilities of one prediction, which float32 keeps to 1e-6
UNIFORM_TOLERANCE = 1e-6  # of probabilities that count as equal
STORABLE = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)


def checked(posterior: Any, method: str) -> Posterior:
    """The posterior that a fit returned, if it can be stored and is finite.

    Raises:
        TypeError, ValueError: it is not a posterior, or holds something that a safetensors file cannot.
        FloatingPointError: it has NaN or infinite values.
    """
    if not isinstance(posterior, Posterior):
        raise TypeError(
            f"{method}.fit returned a {type(posterior).__name__}: return a Posterior, such as "
            "Point(job.model.snapshot())."
        )
    for field in dataclasses.fields(posterior):  # type: ignore[arg-type]
        values = getattr(posterior, field.name)
        if not isinstance(values, Mapping):
            raise TypeError(
                f"The {field.name} in the posterior of {method} is a {type(values).__name__}: a posterior's fields are "
                "dictionaries from names to tensors."
            )
        for name, value in values.items():
            where = f"The {field.name} of {name!r} in the posterior of {method}"
            _check_tensor(where, name, value)
            if field.name == "variance" and bool((value < 0).any()):
                raise ValueError(f"{where} is {float(value.min()):.3g} at its smallest: a variance is 0 or more.")
    return posterior


def _check_tensor(where: str, name: Any, value: Any) -> None:
    """Refuse what a safetensors file cannot hold, and NaN."""
    if not isinstance(name, str) or name != name.encode(errors="replace").decode():
        raise TypeError(f"{where} has a name that cannot be stored: name tensors by text, as job.model.params does.")
    if not isinstance(value, Tensor):
        raise TypeError(f"{where} is a {type(value).__name__}: make it a tensor (torch.as_tensor).")
    if value.is_meta:
        raise ValueError(f"{where} is on the meta device, so it has no values: compute it on a real one.")
    if value.layout is not torch.strided or value.is_nested or value.is_quantized:
        raise ValueError(f"{where} is sparse, nested or quantised: make it dense (to_dense, dequantize).")
    if value.dtype not in STORABLE:
        raise ValueError(f"{where} is {value.dtype}, which cannot be stored: convert it, such as by .float().")
    if not torch.isfinite(value).all():
        raise FloatingPointError(f"{where} has values that are not finite: lower the learning rate, or set clip_norm.")


def as_predictions(found: Any, method: str, examples: int, answers: int) -> np.ndarray[Any, Any]:
    """A method's predictions as (S, N, C) float32, checked: finite log-probabilities that sum to one.

    Raises:
        TypeError, ValueError: it is not such a tensor.
        FloatingPointError: a probability is 0 or NaN.
    """
    if not isinstance(found, Tensor):
        raise TypeError(f"{method}.predict returned a {type(found).__name__}: return a tensor of log-probabilities.")
    if found.layout is not torch.strided or found.is_nested or found.is_meta or found.is_complex():
        raise TypeError(f"{method}.predict returned a tensor that is not dense and real: return log-probabilities.")
    if found.ndim != 3 or found.shape[1:] != (examples, answers):
        raise ValueError(
            f"{method}.predict returned shape {tuple(found.shape)}; it should be (draws, {examples}, {answers})."
        )
    log_probs: np.ndarray[Any, Any] = found.detach().float().cpu().contiguous().numpy()
    if not np.isfinite(log_probs).all():
        raise FloatingPointError(f"{method} predicted a probability that is zero or not a number.")
    sums = np.exp(log_probs.astype(np.float64)).sum(-1)
    if (np.abs(sums - 1) > SUM_TOLERANCE).any():
        worst = float(sums.flat[np.abs(sums - 1).argmax()])
        raise ValueError(
            f"{method}.predict returned rows whose probabilities sum to {worst:.4g}, not to one: return normalised "
            "log-probabilities in float32 (bench.method.log_softmax makes them from logits)."
        )
    return log_probs


def remarks(log_probs: np.ndarray[Any, Any]) -> list[str]:
    """Sentences on (S, N, C) log-probabilities that are numbers and mean nothing."""
    probabilities = np.exp(log_probs.astype(np.float64))
    uniform = (np.abs(probabilities - 1 / log_probs.shape[-1]) < UNIFORM_TOLERANCE).all(-1)
    if uniform.all():
        return [
            "Every prediction is uniform to rounding: the activations have probably overflowed, and the metrics are "
            "those of guessing. Lower the scale of the adapters or of the posterior's draws."
        ]
    return []


def printable(sentence: Any) -> str:
    """A warning as text without control characters, which records may not hold."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in str(sentence))


def plain(facts: Mapping[str, Any], method: str) -> tuple[dict[str, Any], list[str]]:
    """(``facts`` as JSON data, a sentence for each value that could not be kept as it is).

    Tensors and numpy values become numbers and lists. NaN and infinity become null, other objects their text: what a
    method notes along the way is not worth its training.
    """
    said: list[str] = []
    return {str(name): _plain(value, f"{method}'s fact '{name}'", said) for name, value in facts.items()}, said


def _plain(value: Any, where: str, said: list[str]) -> Any:
    if isinstance(value, Tensor | np.ndarray | np.generic):
        try:
            value = value.tolist()
        except Exception as error:  # of any kind: sparse, nested, on no device
            said.append(f"{where} has no plain values ({one_line(error)}) and is stored as text.")
            return str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        said.append(f"{where} is {value} and is stored as null.")
        return None
    if isinstance(value, Mapping):
        return {str(name): _plain(inner, where, said) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, where, said) for inner in value]
    said.append(f"{where} is a {type(value).__name__} and is stored as text.")
    return str(value)
