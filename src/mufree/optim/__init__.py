"""Schedule-free optimizers under µP: parameter groups, constructors, evaluation at x.

Needs torch, mup and schedulefree alone. The order is always: base shapes, initialisation, optimizer.

    model = mup.set_base_shapes(MyModel(width=1024), MyModel(width=64), delta=MyModel(width=128))
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=2**-8, warmup_steps=100)
    optimizer.train()
    ...
    with evaluating(optimizer, model):  # weights at x, the average
        loss = ...

How an optimizer is scaled (Yang et al. 2022, tables 3 and 8), with m the width multiplier `infshape.width_mult()`:

    kind                             family "adam"      family "sgd"
    matrix-like, two infinite dims   lr / m             lr / (fan-in m / fan-out m)
    vector-like, one infinite dim    lr                 lr · m
    no infinite dim                  lr                 lr

Weight decay follows a rule for each variant (`VARIANTS`; docs/weight-decay.md derives them). Adam's ε is best at 1e-12:
gradients shrink as 1/m, and the packages' 1e-8 bites in wide networks.
"""

from mufree.optim.averaging import WeightAverage
from mufree.optim.base_shapes import attach_base_shapes, base_shapes_of, load_base_shapes, save_base_shapes
from mufree.optim.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from mufree.optim.constructors import (
    VARIANTS,
    MuAdamW,
    MuAdamW_ScheduleFree,
    MuRAdam_ScheduleFree,
    MuScheduleFreeWrapper,
    MuSGD,
    MuSGD_ScheduleFree,
    Variant,
    available_impls,
)
from mufree.optim.evaluation import evaluating, is_schedule_free, recompute_batchnorm
from mufree.optim.groups import (
    BaseShapesError,
    Decay,
    EpsScale,
    Family,
    Names,
    Params,
    describe,
    lr_multiplier,
    mup_param_groups,
)
from mufree.optim.schedules import warmup_factor

__all__ = [
    "VARIANTS",
    "BaseShapesError",
    "CheckpointError",
    "Decay",
    "EpsScale",
    "Family",
    "MuAdamW",
    "MuAdamW_ScheduleFree",
    "MuRAdam_ScheduleFree",
    "MuSGD",
    "MuSGD_ScheduleFree",
    "MuScheduleFreeWrapper",
    "Names",
    "Params",
    "Variant",
    "WeightAverage",
    "attach_base_shapes",
    "available_impls",
    "base_shapes_of",
    "describe",
    "evaluating",
    "is_schedule_free",
    "load_base_shapes",
    "load_checkpoint",
    "lr_multiplier",
    "mup_param_groups",
    "recompute_batchnorm",
    "save_base_shapes",
    "save_checkpoint",
    "warmup_factor",
]
