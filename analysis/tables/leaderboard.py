"""``leaderboard.csv``: one row per method, task, model, protocol, variant and metric. Same records, same bytes.

It may list several stores, whose records stay where they are: a store's posteriors need not be there to be listed.
Nothing in it depends on when or where it is written: it is a function of the records. Of its columns, ``ORIGIN`` says
where and when the records were made. ``date`` alone depends on the clock; it has the resolution of a day (UTC). So a
grid that is killed and restarted on one machine and commit gives the bytes of one that was left alone, but for ``date``
if midnight has passed. The same runs from another commit or machine differ in ``ORIGIN`` at most.

Flags are those of ``analysis.records.origin``: a flagged row stays in the file, marked. Disqualifying flags keep it out
of bold and ranks in tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from analysis.records.data_identity import Rows
from analysis.records.groups import Group
from analysis.records.load import load
from analysis.statistics.metric import metric_order
from analysis.statistics.summary import summarize
from analysis.tables.formats.text import Value, csv_text, joined, write_text

CLOCK = ("date",)
ORIGIN = ("flags", "suite", "commit", "device", *CLOCK)
COLUMNS = (
    "method", "task", "eval_task", "split", "model", "protocol", "variant", "settings", "metric", "mean", "sd", "sem",
    "n_seeds", "seeds", "keys", "model_revision", "data_revision", *ORIGIN,
)  # fmt: skip
SHOWN = 3  # stale lines that a check names


def write_leaderboard(stores: Sequence[Path], out: Path) -> int:
    """Write the leaderboard of the results in the stores, one store after the other; returns its number of rows.

    Raises:
        ValueError: a store has no result, ``out`` is a folder, or two stores have the same result, seeds of one row, or
            read a split with unlike content.
    """
    if out.is_dir():
        raise ValueError(f"{out} is a folder: give --out the name of a file.")
    rows = _all_rows(stores)
    write_text(out, csv_text(COLUMNS, rows))
    return len(rows)


def check_leaderboard(stores: Sequence[Path], file: Path) -> list[str]:
    """Differences between a leaderboard file and the records: the first lines that differ; empty if it is current.

    Raises:
        ValueError: as :func:`write_leaderboard`.
    """
    fresh = csv_text(COLUMNS, _all_rows(stores))
    if not file.is_file():
        return [f"{file} is not there."]
    stored = file.read_bytes()
    if stored == fresh.encode():
        return []
    lines = itertools.zip_longest(
        stored.decode(errors="replace").splitlines(keepends=True), fresh.splitlines(keepends=True)
    )
    stale = [(place, old, new) for place, (old, new) in enumerate(lines, 1) if old != new]
    found = [
        f"line {place} of {file}:\n  has:     {_line(old)}\n  records: {_line(new)}"
        for place, old, new in stale[:SHOWN]
    ]
    return [*found, *([f"and {len(stale) - SHOWN} more lines."] if len(stale) > SHOWN else [])]


def _all_rows(stores: Sequence[Path]) -> list[dict[str, Value]]:
    held: dict[str, Path] = {}
    read: dict[Rows, tuple[Path, frozenset[str]]] = {}
    rows = []
    places = [store.resolve() for store in stores]
    for number, store in enumerate(stores):
        if places[number] in places[:number]:
            raise ValueError(f"{store} is named twice: every row would be too. Name each store once.")
        runs = load(store, purposes=("result",))
        for group in runs.results:
            names = [(record.key, record.key) for record in group.records]
            for name, shown in [*names, (group.hash, f"seeds of {group.name} on {group.task}, which are one row")]:
                if held.setdefault(name, store) != store:
                    raise ValueError(
                        f"{held[name]} and {store} both hold {shown}: merge them with --add instead of --also."
                    )
        for split, found in runs.data.fingerprints.items():
            place, known = read.get(split, (store, frozenset[str]()))
            read[split] = (place if known else store), known | found
            if known and found and known != found:
                raise ValueError(
                    f"{place} and {store} read {split.task} ({split.split}) with unlike content, so their results are "
                    "not comparable: list them in two files."
                )
        rows += leaderboard_rows(runs.results)
    return rows


def _line(text: str | None) -> str:
    return "no such line" if text is None else text.removesuffix("\n")


def leaderboard_rows(groups: Sequence[Group]) -> list[dict[str, Value]]:
    """The rows in the order protocol, model, task, eval_task, split, variant, metric, method, settings.

    Metrics in the order of the protocol, others after them; all else alphabetical. Fractions, not percentages.
    """
    pairs = [(group, name) for group in groups for name in {n for record in group.records for n in record.metrics}]
    return [_row(group, metric) for group, metric in sorted(pairs, key=lambda pair: _order(*pair))]


def _order(group: Group, metric: str) -> tuple[object, ...]:
    spec = group.spec
    where = (spec.protocol, group.model, spec.fit.data.task, spec.data.task, spec.split, spec.variant)
    return (*where, metric_order(metric), spec.method, group.settings, group.data)


def _row(group: Group, metric: str) -> dict[str, Value]:
    spec, source, records = group.spec, group.origin, group.having(metric)
    summary = summarize(group.values(metric))
    return {
        "method": spec.method,
        "task": spec.fit.data.task,
        "eval_task": spec.data.task,
        "split": spec.split,
        "model": group.model,
        "protocol": spec.protocol,
        "variant": spec.variant,
        "settings": group.hash,
        "metric": metric,
        "mean": summary.mean,
        "sd": summary.sd,
        "sem": summary.sem,
        "n_seeds": summary.n,
        "seeds": joined(record.seed for record in records),
        "keys": " ".join(record.key for record in records),
        "model_revision": spec.fit.model.revision,
        "data_revision": " ".join(dict.fromkeys((spec.fit.data.revision, spec.data.revision))),
        "flags": " ".join(source.flags),
        "suite": " ".join(source.versions),
        "commit": " ".join(source.commits),
        "device": "; ".join(source.machines),
        "date": source.day,
    }
