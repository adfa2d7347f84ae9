"""The power of a planned study, from the runs of a pilot: one row a task, method and number of seeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from mufree.analysis.metrics.power import Design, measure_noise, power
from mufree.analysis.tables.cases import Case, make_cases, primary
from mufree.study.config import METHODS, Study
from mufree.study.plan import expand, variant
from mufree.study.reading import UserError


def power_table(
    pilot: pd.DataFrame, planned: Study, seeds: Iterable[int] = (), n_simulations: int = 500
) -> pd.DataFrame:
    """Power of the primary grids of `planned`, by the noise that the pilot's rows show.

    One row for each task and method of the pilot, and number of seeds: those asked for, and the planned one. Columns are those
    of `metrics.power.measure_noise` and `power` beside the design. A pilot whose noise can't be measured gives a row with
    the reason and without numbers.
    """
    records = []
    for case in make_cases(primary(pilot)):
        if case.method not in METHODS or case.task not in planned.tasks:
            continue
        own = design_of(planned, case)
        for n_seeds in sorted({*seeds, own.n_seeds}):
            records.append(
                {
                    **case.names,
                    "widths": len(own.log2_width_mult),
                    "width_range": float(2 ** np.ptp(own.log2_width_mult)),
                    "rates": own.n_rates,
                    "n_seeds": n_seeds,
                    "planned": n_seeds == own.n_seeds,
                    **_found(case, replace(own, n_seeds=n_seeds), n_simulations),
                }
            )
    return pd.DataFrame(records)


def design_of(study: Study, case: Case) -> Design:
    """The primary grid that a study plans for the task and method of a case; `UserError` where it plans none."""
    task = study.tasks[case.task]
    runs = [
        run
        for run in expand(study)
        if (run.task, run.method_name) == (case.task, case.method) and not variant(run, task)
    ]
    if not runs:
        raise UserError(f"study {study.name} plans no primary runs of {case.task}, {case.method}")
    widths = np.array(sorted({run.width for run in runs}))
    return Design(
        np.log2(widths / task.base_width), len({run.log2_lr for run in runs}), len({run.seed for run in runs})
    )


def _found(case: Case, design: Design, n_simulations: int) -> dict[str, float | str]:
    try:
        noise = measure_noise(case.surface)
    except ValueError as error:
        return {"reason": str(error)}
    found = power(noise, design, n_simulations=n_simulations)
    return {"curvature": noise.curvature, "run_sd": noise.run_sd, "slope_sd": noise.slope_sd, **found, "reason": ""}
