"""The coordinate check: sizes and changes of activations against width, for any model and any optimizer.

Under µP the entries of every activation, and how far a few steps move them, don't depend on width (Yang et al. 2022, appendix
D.1). For a schedule-free optimizer that must hold twice: at y, where gradients are taken, and at x, the average that is
evaluated. What is measured here, `analysis.coordcheck` judges; `mufree.coordcheck` has both.
"""

from mufree.lab.coordcheck.calls import CheckError, UserFunctionError, default_loss
from mufree.lab.coordcheck.measuring import coord_check
from mufree.lab.coordcheck.own_file import OPTIMIZERS, own_model
from mufree.lab.coordcheck.task import check_task

__all__ = [
    "OPTIMIZERS",
    "CheckError",
    "UserFunctionError",
    "check_task",
    "coord_check",
    "default_loss",
    "own_model",
]
