"""Labels: the settings in which rows of one method differ."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

Flat = Mapping[str, str]  # path of a setting, such as "fit.options.lr", to its value as JSON


def flatten(settings: str, ignore: Sequence[str] = ()) -> Flat:
    """The settings of a canonical JSON text, one entry per leaf."""
    leaves: dict[str, str] = {}

    def visit(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                visit(inner, f"{path}.{name}" if path else name)
        elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
            for number, inner in enumerate(value):
                visit(inner, f"{path}.{number}")
        elif path not in ignore:
            leaves[path] = show(value)

    visit(json.loads(settings), "")
    return leaves


def show(value: Any) -> str:
    """A setting as text: short, and different for different numbers and for lists that differ in their commas."""
    if isinstance(value, float):
        short = f"{value:.6g}"
        return short if float(short) == value else repr(value)
    if isinstance(value, str):
        return json.dumps(value) if value in ("null", "true", "false") else value
    if isinstance(value, list | tuple):
        return ",".join(
            json.dumps(inner) if isinstance(inner, str) and "," in inner else show(inner) for inner in value
        )
    return json.dumps(value)


def distinguish(entries: Sequence[tuple[str, Hashable, Flat]]) -> list[str]:
    """A label for each (name, cell, settings): the name, and the settings in which equal names of one cell differ.

    ``adamw`` stays ``adamw`` when its settings vary from cell to cell only (options per task); two learning rates in
    one cell give ``adamw (lr=0.0001)`` and ``adamw (lr=0.001)`` everywhere.
    """
    cells: dict[tuple[str, Hashable], list[Flat]] = {}
    for name, cell, flat in entries:
        cells.setdefault((name, cell), []).append(flat)
    varying: dict[str, dict[str, None]] = {}
    for (name, _), flats in cells.items():
        paths = dict.fromkeys(path for flat in flats for path in flat)
        differing = [path for path in paths if len({flat.get(path) for flat in flats}) > 1]
        varying.setdefault(name, {}).update(dict.fromkeys(differing))
    return [_label(name, varying[name], flat) for name, _, flat in entries]


def _label(name: str, paths: Mapping[str, None], flat: Flat) -> str:
    parts = dict.fromkeys(f"{path.rsplit('.', 1)[-1]}={flat.get(path, '-')}" for path in sorted(paths))
    return f"{name} ({', '.join(parts)})" if parts else name
