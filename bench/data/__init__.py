"""Rows and batches. Names that version 0.1 had here are handed on to plug-ins that still import them from here."""

from bench.earlier import moved

__getattr__ = moved(
    __name__,
    {
        "Batch": "bench.data.batches.Batch",
        "DataSource": "bench.data.splits.DataSource",
        "Encoded": "bench.data.batches.Encoded",
        "data_spec": "bench.data.identity.data_spec",
        "load_split": "bench.data.splits.load_split",
    },
)
