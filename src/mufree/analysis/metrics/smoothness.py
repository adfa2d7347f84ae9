"""How smoothly the validation loss falls during training."""

from __future__ import annotations

import numpy as np

from mufree.analysis.metrics.statistics import Floats


def excess_variation(losses: Floats) -> float:
    """TVx = Σ max(0, v[i+1] − v[i]) / (v[0] − v[−1]) of one curve, [evaluations]: all rises over the net fall.

    0 is a monotone curve. NaN where the loss did not fall or was not always finite, or with fewer than 2 evaluations.
    """
    if len(losses) < 2 or not np.isfinite(losses).all() or losses[0] <= losses[-1]:
        return float("nan")
    return float(np.maximum(np.diff(losses), 0).sum() / (losses[0] - losses[-1]))
