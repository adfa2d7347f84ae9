"""The table of progress."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mufree.analysis.metrics.progress import progress
from mufree.analysis.tables.cases import Case, Records, interval_columns, mean_interval


def table(cases: Sequence[Case]) -> Records:
    """Progress at the best rate of each width, its mean over seeds."""
    for cell in (cell for case in cases for cell in case.cells):
        runs = cell.judged()
        shares = progress(runs["initial_loss"].to_numpy(np.float64), runs["val_loss"].to_numpy(np.float64))
        yield {**cell.names, **interval_columns("progress", mean_interval(shares)), "n_seeds": len(shares)}
