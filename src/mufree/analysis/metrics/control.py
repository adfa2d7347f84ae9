"""The negative control: at base width SP and µP are the same network, so their runs must agree in every bit."""

from __future__ import annotations

import numpy as np

from mufree.analysis.metrics.statistics import Bools, Floats


def same_bits(a: Floats, b: Floats) -> Bools:
    """Element by element, whether two float64 arrays hold the same bits; all NaN count as one value, 0 and −0 as two."""
    equal: Bools = a.view(np.int64) == b.view(np.int64)
    return equal | (np.isnan(a) & np.isnan(b))
