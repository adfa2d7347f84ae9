"""Do µP and ScheduleFree help each other? Effects in a two by two design, of any statistic M.

Every function takes M of the four cells, numbers or arrays of one shape: SP and µP, each under AdamW (a) and ScheduleFree (sf).
Seeds are shared by all cells, so an interval is a joint jackknife of these functions, never a sum of four variances.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mufree.analysis.metrics.statistics import Floats

EFFECTS = ("mup", "schedulefree", "interaction")
"""The rows of `effects`."""


def effects(sp_a: ArrayLike, sp_sf: ArrayLike, mup_a: ArrayLike, mup_sf: ArrayLike) -> Floats:
    """The effects in the order of `EFFECTS`, stacked on a new first axis, for one jackknife.

    Of µP, M(µP) − M(SP), the mean over the two optimizers; of ScheduleFree, M(SF) − M(AdamW), the mean over the two
    parametrizations; and `difference_in_differences`.
    """
    a, b, c, d = (np.asarray(cell, np.float64) for cell in (sp_a, sp_sf, mup_a, mup_sf))
    return np.stack([((c - a) + (d - b)) / 2, ((b - a) + (d - c)) / 2, (d - b) - (c - a)])


def difference_in_differences(sp_a: ArrayLike, sp_sf: ArrayLike, mup_a: ArrayLike, mup_sf: ArrayLike) -> Floats:
    """[M(µP,SF) − M(SP,SF)] − [M(µP,A) − M(SP,A)]: below 0, µP lowers M more under ScheduleFree than under AdamW."""
    return np.asarray(effects(sp_a, sp_sf, mup_a, mup_sf)[2])
