"""Runs a family: its fits, each once, then every evaluation that hangs from them. Knows no method by name."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator

from bench.data.batches import Encoded
from bench.errors import ModelNotUsable
from bench.process.claim import claim
from bench.process.holder import mentioned
from bench.process.progress import Progress
from bench.run.context import Context
from bench.run.evaluation import evaluate, read
from bench.run.reporter import Reporter
from bench.specs import Family, FitSpec, RunSpec, key
from bench.store.files import NoRoom, UnreadableRecord, no_room
from bench.store.records import RunRecord

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Runner(Context):
    """Computes families, one after the other; it keeps its base model from one to the next."""

    def run(self, family: Family, progress: Progress | None = None, wait: bool = True) -> list[RunRecord]:
        """Compute the missing results of a family and return all its records.

        An evaluation that fails does not stop the others; a fit that fails stops those that need it. While another
        process is at work on the family, this one waits for it, or leaves it alone without ``wait``.

        Raises:
            Exception: the first thing that went wrong, after each was recorded under ``failures/``.
            Held: another process is at work on it.
            Lost: another process took the claim.
            NoRoom: the store takes nothing more.
            Stopped: this one was asked to stop.
        """
        if len(self.store.complete(family.runs)) == len(family.runs):
            return [self.store.record(run) for run in family.runs]
        with claim(
            self.store.claim_file(family.key),
            self.worker,
            seconds=self.claim_seconds,
            wait=wait,
            about={"label": family.label, "runs": mentioned(map(key, family.runs))},
            stop=self.stop,
        ) as held:
            return self._run(family, Reporter(progress or Progress(), held, family, self.stop))

    def _run(self, family: Family, progress: Reporter) -> list[RunRecord]:
        records, errors, failed = [], list[BaseException](), dict[str, BaseException]()
        for run in family.runs:
            needed = list(_in_order(run.fit))
            if culprit := next((fit for fit in needed if key(fit) in failed), None):
                self._record(run, failed[key(culprit)])
                continue
            began = False
            try:
                if not self.store.has(run):
                    progress.check()
                    encoded: Encoded | None = read(self, run)
                    began = True
                    evaluate(self, run, encoded, progress)
                records.append(self.store.record(run))
            except UnreadableRecord as error:  # a fault of permissions or of the file system, not of the method
                errors.append(error)
            except (Exception, SystemExit) as error:
                if why := no_room(error, self.store.root):
                    raise NoRoom(why) from error
                errors.append(error)
                self._record(run, error)
                missing = next((fit for fit in needed if not self.store.folder(fit).exists()), None)
                if (began or isinstance(error, ModelNotUsable)) and missing is not None:
                    failed[key(missing)] = error
        if errors:
            raise errors[0]
        return records

    def _record(self, run: RunSpec, error: BaseException) -> None:
        try:
            self.store.fail(run, error, self.attempt())
        except OSError as full:  # a full or read-only disk, most likely what went wrong in the first place
            logger.warning("The failure of %s could not be recorded (%s).", run.method, full)


def _in_order(fit: FitSpec) -> Iterator[FitSpec]:
    """The fits that a fit starts from, then itself: the order in which they are computed."""
    for base in fit.bases:
        yield from _in_order(base)
    yield fit
