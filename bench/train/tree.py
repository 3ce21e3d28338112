"""Nested dicts and lists of tensors and plain values in one safetensors file: checkpoints without pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def save_tree(tree: Any, file: Path) -> None:
    """Write nested dicts, lists and tuples of tensors and JSON values. Keys may be strings or integers.

    Raises:
        TypeError: a value is neither a tensor nor plain, named by its place in the tree.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    shape = json.dumps(_pack(tree, tensors, "state"))
    save_file(tensors, file, metadata={"tree": shape})


def load_tree(file: Path, device: torch.device | str = "cpu") -> Any:
    """The tree in a file that :func:`save_tree` wrote (tuples come back as lists)."""
    from safetensors import safe_open

    with safe_open(file, framework="pt", device=str(device)) as stored:
        shape = json.loads(stored.metadata()["tree"])
        return _unpack(shape, stored)


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


def _unpack(shape: Any, stored: Any) -> Any:
    if "tensor" in shape:
        return stored.get_tensor(shape["tensor"])
    if "dict" in shape:
        return {key: _unpack(value, stored) for key, value in shape["dict"]}
    if "list" in shape:
        return [_unpack(value, stored) for value in shape["list"]]
    return shape["value"]
