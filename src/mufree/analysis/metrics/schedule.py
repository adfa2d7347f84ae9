"""Does the method need to know how long it will train? Gaps and drifts over the training horizon.

A surface over horizons is a `Surface` of one method at one width whose `widths` are steps, ascending, and whose `base_width` is
the shortest horizon's steps. So what is known about transfer over widths is used as it is. Two kinds of rows go in: for a
method with a schedule, runs of that horizon; for a schedule-free one also its longest run, read at that step.
"""

from __future__ import annotations

import numpy as np

from mufree.analysis.metrics.statistics import Floats, Ints, cross_fitted
from mufree.analysis.metrics.surface import Surface, cost_at, grid_argmin
from mufree.analysis.metrics.transfer import drift, regret_held


def horizon_drift(surface: Surface) -> float:
    """Slope of log2 optimal rate on log2 horizon, in doublings per doubling: `transfer.drift` of a surface over horizons.

    NaN with fewer than 3 uncensored horizons.
    """
    return drift(surface)


def horizon_regret(surface: Surface, transferred: int) -> float:
    """Regret, in nats, of the rate in position `transferred` at the longest horizon: the last of `transfer.regret_held`.

    `transferred` is the shortest horizon's best rate, as from `transfer.transferred_rate`. NaN where that is: one seed, or no
    usable rate at either horizon.
    """
    return float(regret_held(surface, transferred)[-1])


def anytime_gaps(free: Surface, rival: Surface) -> Floats:
    """Same-seed anytime gap at each horizon, [H], in nats: the schedule-free run's loss − the rival's.

    `free` holds the same long runs read at each horizon; their rate is the grid argmin at the last one, so nobody has to
    know where reading will stop. `rival` holds its own runs of each horizon, each at that horizon's own argmin. Diverged runs
    count as the loss at initialisation. NaN where a side has no usable rate or no run there. Both minima are chosen on the
    seeds they are judged by; `anytime_gaps_cf` is the primary. Horizons and seeds have to be the same: ValueError.
    """
    _check_pairing(free, rival)
    return _gaps(free, rival, free, rival)


def anytime_gaps_cf(free: Surface, rival: Surface) -> Floats:
    """Cross-fitted anytime gap at each horizon, [H], in nats: `anytime_gaps` with the rates of both chosen on the other seeds.

    At the horizons before the last, `free` is judged where it wasn't tuned and has no winner's curse, while the rival is and
    has: only cross-fitting both sides makes the comparison fair. NaN with one seed.
    """
    return np.asarray(anytime_gaps_by_seed(free, rival).mean(axis=0))


def anytime_gaps_by_seed(free: Surface, rival: Surface) -> Floats:
    """The terms of `anytime_gaps_cf`, [S, H]: one gap for each seed, its rates chosen on the others."""
    _check_pairing(free, rival)
    return cross_fitted(
        lambda others, judged: _gaps(free.keep(others), rival.keep(others), free.keep(judged), rival.keep(judged)),
        free.n_seeds,
    )


def premium(constant: Surface, scheduled: Surface) -> Floats:
    """Same-seed premium of the schedule at each width, [K], in nats: best loss of constant − best loss of scheduled.

    Each at its own grid argmin. Both minima are too low by an amount that grows with noise and with the flatness of the
    valley, and schedules differ in both; so `premium_cf` is the primary. Surfaces over the same widths and seeds: ValueError.
    """
    _check_pairing(constant, scheduled)
    return _own_best(constant, constant) - _own_best(scheduled, scheduled)


def premium_cf(constant: Surface, scheduled: Surface) -> Floats:
    """Cross-fitted premium at each width, [K], in nats: `premium` with both rates chosen on the other seeds.

    It estimates what someone pays who tunes both. NaN with one seed or where a side has no usable rate.
    """
    return np.asarray(premium_by_seed(constant, scheduled).mean(axis=0))


def premium_by_seed(constant: Surface, scheduled: Surface) -> Floats:
    """The terms of `premium_cf`, [S, K]: one premium for each seed, its rates chosen on the others."""
    _check_pairing(constant, scheduled)

    def gap(others: Ints, judged: Ints) -> Floats:
        return _own_best(constant.keep(others), constant.keep(judged)) - _own_best(
            scheduled.keep(others), scheduled.keep(judged)
        )

    return cross_fitted(gap, constant.n_seeds)


def _gaps(free_choice: Surface, rival_choice: Surface, free: Surface, rival: Surface) -> Floats:
    """Rates chosen on the first two surfaces, judged on the last two, [H]."""
    one_rate = np.full(len(free.widths), grid_argmin(free_choice)[-1])
    return cost_at(free, one_rate) - _own_best(rival_choice, rival)


def _own_best(choice: Surface, judge: Surface) -> Floats:
    """Mean cost on `judge` at each row's argmin on `choice`, [K]."""
    return cost_at(judge, grid_argmin(choice))


def _check_pairing(a: Surface, b: Surface) -> None:
    if not np.array_equal(a.widths, b.widths):
        raise ValueError(f"Rows {a.widths.tolist()} and {b.widths.tolist()} differ: give both surfaces the same ones.")
    if a.n_seeds != b.n_seeds:
        raise ValueError(f"{a.n_seeds} and {b.n_seeds} seeds can't be paired: give both surfaces the same seeds.")
