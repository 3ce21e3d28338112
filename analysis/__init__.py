"""Tables, figures and the leaderboard, from stored records. Never imports torch, methods or tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def load_results(runs: str | Path) -> pd.DataFrame:
    """A store as one tidy DataFrame, a row per evaluation and metric; :mod:`analysis.records.frame` has the columns."""
    from analysis.records.frame import load_results as load

    return load(runs)
