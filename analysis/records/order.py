"""The order of rows, and the one method that is known by name: the usual baseline."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.records.groups import Group
from analysis.records.published import method_order

BASELINE = "adamw"  # the method that differences are taken to by default


def row_order(group: Group, baseline: str) -> tuple[object, ...]:
    """Rows of a table: references first, then the baseline's family, then families by their training.

    Within that, the methods of the paper stand as in the paper, others after them, alphabetically.
    """
    root = group.spec.fit.root.method
    return not group.reference, root != baseline, method_order(root), method_order(group.spec.method), group.name


def row_names(groups: Sequence[Group], baseline: str) -> list[str]:
    """The names of the rows that groups make, each once, in order."""
    return list(dict.fromkeys(group.name for group in sorted(groups, key=lambda g: row_order(g, baseline))))
