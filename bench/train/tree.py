"""Nested dicts and lists of tensors and plain values in one safetensors file: checkpoints without pickle.

The file holds a SHA-256 of all values, which :func:`load_tree` checks: a flipped bit is an error, not another number.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def save_tree(tree: Any, file: Path) -> None:
    """Write nested dicts, lists and tuples of tensors and JSON values. Keys may be strings or integers.

    Raises:
        TypeError: a value is neither a tensor nor plain; the message names its place in the tree.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    shape = json.dumps(_pack(tree, tensors, "state"))
    save_file(tensors, file, metadata={"tree": shape, "sha256": _digest(shape, tensors)})


def load_tree(file: Path) -> Any:
    """The tree, on the CPU, in a file that :func:`save_tree` wrote (tuples come back as lists).

    Raises:
        ValueError: the values are not those that were written.
    """
    from safetensors import safe_open

    with safe_open(file, framework="pt") as stored:
        about = stored.metadata()
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (a file handle, not a dict)
    if about.get("sha256") != _digest(about["tree"], tensors):
        raise ValueError("its content does not match its digest")
    return _unpack(json.loads(about["tree"]), tensors)


def _digest(shape: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the tree's structure and plain values, and of every tensor's name, dtype, shape and bytes."""
    whole = hashlib.sha256(shape.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        whole.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def _pack(tree: Any, tensors: dict[str, Tensor], place: str) -> Any:
    if isinstance(tree, Tensor):
        name = str(len(tensors))
        # clone: safetensors refuses tensors that share memory, as views of a flat buffer do
        tensors[name] = tree.detach().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(tree, dict):
        for key in tree:
            if isinstance(key, bool) or not isinstance(key, str | int):
                raise TypeError(f"{place} has the key {key!r}: a checkpoint's keys are strings and whole numbers.")
        items = [[key, _pack(value, tensors, f"{place}[{key!r}]")] for key, value in tree.items()]
        return {"dict": items}
    if isinstance(tree, list | tuple):
        return {"list": [_pack(value, tensors, f"{place}[{i}]") for i, value in enumerate(tree)]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return {"value": tree}
    raise TypeError(f"{place} is a {type(tree).__name__}: a checkpoint holds tensors, numbers, strings and None.")


def _unpack(shape: Any, tensors: dict[str, Tensor]) -> Any:
    if "tensor" in shape:
        return tensors[shape["tensor"]]
    if "dict" in shape:
        return {key: _unpack(value, tensors) for key, value in shape["dict"]}
    if "list" in shape:
        return [_unpack(value, tensors) for value in shape["list"]]
    return shape["value"]
