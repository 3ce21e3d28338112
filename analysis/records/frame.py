"""A store as one tidy pandas DataFrame, for notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.records.evaluation import Evaluation
from analysis.records.groups import Group
from analysis.records.load import load
from bench.specs import to_json

if TYPE_CHECKING:
    import pandas as pd

IDENTITY = ("method", "task", "eval_task", "split", "seed", "protocol", "variant", "purpose", "model")


def load_results(runs: str | Path) -> pd.DataFrame:
    """Every sound evaluation of a store: one row per evaluation and metric.

    Args:
        runs: the store, as in ``bench report --runs``.

    Returns:
        The columns ``method, task, eval_task, split, seed, protocol, variant, purpose, model`` say what was evaluated;
        ``metric`` and ``value`` what was found (fractions, not percentages; NLL in nats). ``row`` is the name under
        which tables average it over seeds, ``title`` that name for people, ``flags`` what may be wrong with it,
        ``ranked`` whether it may be best. ``draws``, ``examples``, ``train_seconds``, ``posterior_seconds`` and
        ``predict_seconds`` are of its own fit and prediction. ``key`` names its folder. All fields of its spec follow,
        by path: ``spec.options.tau``, ``spec.fit.train.steps``, ``spec.fit.model.lora.r``.

    Raises:
        ValueError: there is no sound result in the store.
    """
    import pandas as pd

    loaded = load(Path(runs))
    groups = (*loaded.results, *loaded.sweeps, *loaded.tunes)
    rows = [row for group in groups for record in group.records for row in _rows(group, record)]
    return pd.DataFrame.from_records(rows).sort_values(list(IDENTITY), kind="stable", ignore_index=True)


def _rows(group: Group, record: Evaluation) -> Iterator[dict[str, Any]]:
    spec, facts = record.spec, record.facts
    row: dict[str, Any] = {
        "method": spec.method,
        "task": spec.fit.data.task,
        "eval_task": spec.data.task,
        "split": spec.split,
        "seed": record.seed,
        "protocol": spec.protocol,
        "variant": spec.variant,
        "purpose": spec.purpose,
        "model": group.model,
        "row": group.name,
        "title": group.title,
        "flags": " ".join(group.origin.flags),
        "ranked": group.origin.ranked and not group.reference,
        "draws": facts.draws,
        "examples": facts.scored,
        "train_seconds": facts.fit.train_seconds,
        "posterior_seconds": facts.fit.posterior_seconds,
        "predict_seconds": facts.predict_seconds,
        "key": record.key,
    }
    fields = dict(_leaves(to_json(spec), "spec"))
    for metric, value in record.metrics.items():
        yield {**row, "metric": metric, "value": value, **fields}


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The fields of a spec by path; a list is one field, and bases are the names of their methods."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}")
    elif path.endswith(".bases"):
        yield path, " ".join(base["method"] for base in value)
    else:
        yield path, ",".join(map(str, value)) if isinstance(value, list) else value
