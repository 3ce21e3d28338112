"""Stored records, checked and grouped. What cannot be used is named and left out; the rest goes on."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from analysis.records.data_identity import DataIdentity
from analysis.records.evaluation import Evaluation
from analysis.records.facts import PREDICTIONS, Malformed, run_facts
from analysis.records.fits import Fits
from analysis.records.groups import Runs, base_names, group, method_titles
from analysis.records.names import printable
from analysis.records.predictions import Predictions, check_metrics, read_predictions
from bench.store.names import PURPOSES
from bench.store.records import DamagedRecord, read_record

log = logging.getLogger(__name__)

Visit = Callable[[Evaluation, Predictions], None]
AGAIN = "Delete that folder and run the grid again."


def load(
    runs: Path,
    visitor: Callable[[Sequence[Evaluation]], Visit] | None = None,
    purposes: Collection[str] = PURPOSES,
) -> Runs:
    """The sound records under ``runs/evals``, grouped. Each of the others is logged and named in ``excluded``.

    Args:
        runs: the store.
        visitor: makes, of all records whose facts are sound, what is called with each of them and its predictions. This
            is the one time that predictions are read; they are not kept.
        purposes: the purposes of the records that are wanted; the others are not looked at.

    Raises:
        ValueError: there is no result to show.
    """
    records, excluded = _read(runs, purposes)
    visit = visitor(records) if visitor is not None else None
    good = []
    for record in records:
        try:
            sound, given = _checked(record)
        except Malformed as error:
            excluded.append(str(error))
            continue
        if visit is not None:
            visit(sound, given)
        good.append(sound)
    fits = Fits(runs)
    data = DataIdentity(good, fits)
    titles = method_titles(good)
    bases = base_names(good)
    results, sweeps, tunes = (
        group([r for r in good if r.spec.purpose == p], fits, data, titles, bases) for p in PURPOSES
    )
    sentences = tuple(printable(sentence) for sentence in (*excluded, *fits.complaints.values()))
    for sentence in sentences:
        log.warning("left out: %s", sentence)
    if not results:
        raise ValueError(
            f"{runs} holds no {'undamaged ' if excluded else ''}result: "
            f"run `bench grid GRID.toml --runs {runs}` first, or name another folder."
        )
    return Runs(runs, results, sweeps, tunes, sentences, fits, data, titles)


def _read(runs: Path, purposes: Collection[str]) -> tuple[list[Evaluation], list[str]]:
    """The records whose spec, names and facts are sound, by key, and a sentence on each of the others."""
    good: list[Evaluation] = []
    bad: list[str] = []
    for folder in sorted((runs / "evals").glob("[0-9a-f]*")):
        try:
            record = read_record(folder)
            if record.spec.purpose in purposes:
                facts = run_facts(record.facts)
                good.append(Evaluation(record.key, record.spec, folder, record.settings, dict(record.metrics), facts))
        except DamagedRecord as error:
            bad.append(str(error))
        except Malformed as error:
            bad.append(f"{folder}/facts.json is damaged: {error}. {AGAIN}")
    return good, bad


def _checked(record: Evaluation) -> tuple[Evaluation, Predictions]:
    """A record with the metrics that its predictions have and its facts may lack, and the predictions.

    Raises:
        Malformed: they cannot be read, are not sound, or have other metrics than stated.
    """
    file = record.folder / PREDICTIONS
    try:
        given = read_predictions(record.folder, record.facts)
        return dataclasses.replace(record, metrics=check_metrics(record.metrics, given)), given
    except Malformed as error:
        raise Malformed(f"{file} is damaged: {error}. {AGAIN}") from error
    except FileNotFoundError as error:
        raise Malformed(f"{file} is missing. {AGAIN}") from error
    except OSError as error:
        raise Malformed(f"{file} cannot be read ({error}).") from error
