"""Waiting for families that others compute, with live progress from the store. Stopping to wait stops none of them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bench.launch.launcher import Queued, Silent, State, queued
from bench.launch.status import FamilyStatus, count_states, family_states
from bench.process.progress import Bar
from bench.specs import Family
from bench.store.store import Store

POLL_SECONDS = 2.0
PATIENCE = 3  # looks that must agree before a family counts as given up: it may be between queue and claim


def follow(title: str, families: Sequence[Family], store: Store) -> list[str]:
    """Wait until nobody waits for or works on any of ``families``; one sentence for each that is not done then."""
    bar = Bar(title, len(families))
    ended: dict[str, FamilyStatus] = {}
    queue: dict[str, Queued] = {}
    idle = 0
    try:
        while True:
            try:
                queue, silent = queued(store), False
            except Silent:
                queue, silent = {}, True
            rows = family_states([family for family in families if family.key not in ended], store, queue)
            for row in rows:
                if row.state == State.DONE:
                    ended[row.family.key] = row
                    bar.done(row.family.key, row.family.label)
                elif row.state == State.RUNNING:
                    bar.update(row.family.key, row.fraction, f"{_counts(rows, ended)}; {row.family.label}: {row.at}")
            left = [row for row in rows if row.state != State.DONE]
            idle = 0 if silent or any(row.state in (State.RUNNING, State.WAITING) for row in left) else idle + 1
            if not left or idle >= PATIENCE:
                break
            time.sleep(POLL_SECONDS)
    finally:
        bar.close()
    return [f"{row.family.label}: {row.reason or 'it left the queue without a result'}. "
            f"See `bench logs {row.family.key}`." for row in left]  # fmt: skip


def _counts(rows: Sequence[FamilyStatus], ended: dict[str, FamilyStatus]) -> str:
    counts = count_states([*(row.state for row in rows if row.state != State.DONE), *(State.DONE for _ in ended)])
    return ", ".join(f"{count} {state}" for state, count in counts.items())
