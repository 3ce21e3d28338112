"""Names that tell rows apart, and the order of rows. One method is known by name: the usual baseline."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analysis.published import method_order

if TYPE_CHECKING:
    from analysis.load import Group

BASELINE = "adamw"  # what differences are taken to, unless a caller says otherwise

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
    """A setting as text: short for numbers and lists."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return ",".join(show(inner) for inner in value)
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


def row_order(group: Group, baseline: str) -> tuple[object, ...]:
    """Rows of a table: references first, then the baseline's family, then families by their training.

    Within that, the methods of the paper stand as in the paper, others after them, alphabetically.
    """
    root = group.spec.fit.root.method
    return not group.reference, root != baseline, method_order(root), method_order(group.spec.method), group.name


def row_names(groups: Sequence[Group], baseline: str) -> list[str]:
    """The names of the rows that groups make, each once, in order."""
    return list(dict.fromkeys(group.name for group in sorted(groups, key=lambda g: row_order(g, baseline))))
