"""Does the method need to know how long it will train? Gaps and drifts over the training horizon.

A surface over horizons is a `Surface` of one method at one width whose `widths` are steps, ascending, and whose `base_width` is
the shortest horizon's steps. So what is known about transfer over widths is used as it is: `transfer.drift` is the slope of
the best rate on the horizon, and the last of `transfer.regret_held` what the shortest one's rate costs at the longest.
"""

from __future__ import annotations

import numpy as np

from mufree.analysis.metrics.statistics import Floats
from mufree.analysis.metrics.surface import Surface, cost_at, cross_fit, grid_argmin


def anytime_gaps_cf(free: Surface, rival: Surface) -> Floats:
    """Cross-fitted anytime gap at each horizon, [H], in nats: the schedule-free run's loss − the rival's.

    `free` holds the same long runs read at each horizon; their rate is the grid argmin at the last one, so nobody has to
    know where reading will stop. `rival` holds its own runs of each horizon, each at that horizon's own argmin. Both choose on
    the seeds other than the one judged. Diverged runs count as the loss at initialisation. NaN with one seed, and where a side
    has no usable rate or no run. Horizons and seeds have to be the same: ValueError.
    """
    _check_pairing(free, rival)

    def gaps(chosen: list[Surface], judged: list[Surface]) -> Floats:
        one_rate = np.full(len(free.widths), grid_argmin(chosen[0])[-1])
        return cost_at(judged[0], one_rate) - _own_best(chosen[1], judged[1])

    return cross_fit(gaps, free, rival)


def premium_cf(constant: Surface, scheduled: Surface) -> Floats:
    """Cross-fitted premium of the schedule at each width, [K], in nats: best loss of constant − best loss of scheduled.

    Both rates are chosen on the seeds other than the one judged: a minimum over the judged ones is too low, by more in a
    flatter valley, and schedules differ in that. NaN with one seed or where a side has no usable rate. Widths and seeds have to
    be the same: ValueError.
    """
    _check_pairing(constant, scheduled)

    def gaps(chosen: list[Surface], judged: list[Surface]) -> Floats:
        return _own_best(chosen[0], judged[0]) - _own_best(chosen[1], judged[1])

    return cross_fit(gaps, constant, scheduled)


def _own_best(choice: Surface, judge: Surface) -> Floats:
    """Mean cost on `judge` at each row's argmin on `choice`, [K]."""
    return cost_at(judge, grid_argmin(choice))


def _check_pairing(a: Surface, b: Surface) -> None:
    if not np.array_equal(a.widths, b.widths):
        raise ValueError(f"Rows {a.widths.tolist()} and {b.widths.tolist()} differ: give both surfaces the same ones.")
    if a.n_seeds != b.n_seeds:
        raise ValueError(f"{a.n_seeds} and {b.n_seeds} seeds can't be paired: give both surfaces the same seeds.")
