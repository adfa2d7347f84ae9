"""How much of the loss at initialisation is gone."""

from __future__ import annotations

from mufree.analysis.metrics.statistics import Floats


def progress(initial: Floats, final: Floats) -> Floats:
    """Share of the initial loss that training took away, of any shape; NaN where either is."""
    return (initial - final) / initial
