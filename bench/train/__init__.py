"""The training loop. Names that version 0.1 had here are handed on to plug-ins that still import them from here."""

from bench.earlier import moved

__getattr__ = moved(
    __name__,
    {
        "Checkpointing": "bench.train.checkpoint.Checkpointing",
        "FitJob": "bench.method.FitJob",
        "Snapshots": "bench.train.checkpoint.Snapshots",
        "Stateful": "bench.train.checkpoint.Stateful",
        "constant": "bench.train.schedules.constant",
        "linear_to_zero": "bench.train.schedules.linear_to_zero",
        "seed_global": "bench.train.seeding.seed_global",
    },
)
