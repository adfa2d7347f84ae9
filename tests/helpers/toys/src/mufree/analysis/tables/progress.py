"""The table of progress."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mufree.analysis.metrics.progress import progress
from mufree.analysis.tables.cases import Case, Records, interval_columns, mean_interval


def table(cases: Sequence[Case]) -> Records:
    """Progress at the best rate of each width, its mean over seeds."""
    records = []
    for case in cases:
        for width, optimum in zip(case.widths, case.optima, strict=True):
            runs = case.judged_at(width, optimum.log2_lr_argmin)
            shares = progress(runs["initial_loss"].to_numpy(np.float64), runs["val_loss"].to_numpy(np.float64))
            found = interval_columns("progress", mean_interval(shares))
            records.append({**case.names, "width": width, **found, "n_seeds": len(shares)})
    return records
