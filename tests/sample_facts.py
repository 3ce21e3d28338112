"""Facts of a fit and of its evaluation, for tests that need a whole record."""

from __future__ import annotations

from bench.store.facts import (
    Attempt,
    FitFacts,
    FitSeconds,
    Memory,
    Provenance,
    RunFacts,
    RunSeconds,
    ScoredOn,
    TrainedOn,
    to_plain,
    used_fit,
)  # fmt: skip

SPLIT = {"official": 9, "rows": 9, "kept": 8, "dropped": 1, "partial": False, "fingerprint": "0123456789abcdef"}
HERE = {"host": "h", "node": "h", "job": "", "restart": 0, "gpus": "", "device": "Abacus"}
MADE = Provenance(
    commit="c" * 40, dirty=False, versions={"torch": "2.6.0+cpu", "bitsandbytes": None}, python="3.11.7",
    device="Abacus", device_type="cpu", threads=1, host="h", time="2026-01-01T00:00:00+00:00", data_from="hub",
)  # fmt: skip
FIT = FitFacts(
    steps=10, seconds=FitSeconds(train=1.5, posterior=0), seconds_per_step=0.15,
    peak_memory_mib=Memory(host=400.0, device=None), forward_passes=40, examples=TrainedOn(**SPLIT, held_out=0),
    attempts=(Attempt(**HERE, from_step=0, time="2026-01-01T00:00:00+00:00"),), warnings=("r < 8:\nlow",),
    diagnostics={"prior": [1.0, {"free": None}]}, provenance=MADE,
)  # fmt: skip
RUN = RunFacts(
    metrics={"accuracy": 0.5, "nll": 0.7, "excess_nll": -0.1}, draws=3,
    examples=ScoredOn(**SPLIT, scored=8, truncated=0),
    seconds=RunSeconds(predict=0.5), peak_memory_mib=Memory(host=500.0, device=10.0), forward_passes=24,
    fit=used_fit("0123456789abcdef", to_plain(FIT)), attempt=Attempt(**HERE), partial_data=False, provenance=MADE,
)  # fmt: skip
