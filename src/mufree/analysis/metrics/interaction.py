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


def mup_effect(sp_a: ArrayLike, sp_sf: ArrayLike, mup_a: ArrayLike, mup_sf: ArrayLike) -> Floats:
    """Main effect of µP: M(µP) − M(SP), the mean over the two optimizers."""
    a, b, c, d = _cells(sp_a, sp_sf, mup_a, mup_sf)
    return ((c - a) + (d - b)) / 2


def schedulefree_effect(sp_a: ArrayLike, sp_sf: ArrayLike, mup_a: ArrayLike, mup_sf: ArrayLike) -> Floats:
    """Main effect of ScheduleFree: M(SF) − M(AdamW), the mean over the two parametrizations."""
    a, b, c, d = _cells(sp_a, sp_sf, mup_a, mup_sf)
    return ((b - a) + (d - c)) / 2


def difference_in_differences(sp_a: ArrayLike, sp_sf: ArrayLike, mup_a: ArrayLike, mup_sf: ArrayLike) -> Floats:
    """[M(µP,SF) − M(SP,SF)] − [M(µP,A) − M(SP,A)]: below 0, µP lowers M more under ScheduleFree than under AdamW."""
    a, b, c, d = _cells(sp_a, sp_sf, mup_a, mup_sf)
    return (d - b) - (c - a)


def effects(sp_a: ArrayLike, sp_sf: ArrayLike, mup_a: ArrayLike, mup_sf: ArrayLike) -> Floats:
    """Both main effects and the interaction, stacked on a new first axis in the order of `EFFECTS`, for one jackknife."""
    cells = _cells(sp_a, sp_sf, mup_a, mup_sf)
    return np.stack([effect(*cells) for effect in (mup_effect, schedulefree_effect, difference_in_differences)])


def _cells(*cells: ArrayLike) -> tuple[Floats, ...]:
    return tuple(np.asarray(cell, np.float64) for cell in cells)
