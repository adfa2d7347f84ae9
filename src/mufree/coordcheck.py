"""The coordinate check of one's own model: measure with `coord_check`, judge with `verdict`.

    frame = coord_check(make_model, make_optimizer, widths=[64, 128, 256], batch=make_batch)
    result = verdict(slopes(frame), first_step=first_judged_step(frame))
    assert outcome(result) == "passed", result

`docs/how-to.md` tells how, and the command `mufree coordcheck` does it for a file.
"""

from mufree.analysis.coordcheck import first_judged_step, outcome, slopes, verdict
from mufree.lab.coordcheck import CheckError, UserFunctionError, coord_check, default_loss

__all__ = [
    "CheckError",
    "UserFunctionError",
    "coord_check",
    "default_loss",
    "first_judged_step",
    "outcome",
    "slopes",
    "verdict",
]
