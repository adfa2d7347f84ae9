"""Schedule-free optimizers under µP: parameter groups, constructors, evaluation at x.

Needs torch, mup and schedulefree alone.

    model = parametrize(make_model, width=1024, base_width=64, seed=0)
    optimizer = MuAdamW_ScheduleFree(model.parameters(), lr=2**-8, warmup_steps=100, eps=1e-12)
    optimizer.train()
    ...
    with evaluating(optimizer, model):  # weights at x, the average
        loss = ...

`parametrization` has the table of what µP scales. A model with base shapes from `mup.set_base_shapes` will do as well; the
order is then base shapes, initialisation, optimizer.

`MuMuon` has a rule of its own (`muon`). Weight decay follows a rule for each variant (`VARIANTS`; docs/weight-decay.md derives
them). Adam's ε is best at 1e-12: gradients shrink as 1/m, and the packages' 1e-8 bites in wide networks.
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
from mufree.optim.export import export
from mufree.optim.groups import (
    BaseShapesError,
    Decay,
    EpsScale,
    Family,
    Growth,
    Names,
    Params,
    describe,
    growth_of,
    lr_multiplier,
    mup_param_groups,
)
from mufree.optim.muon import MuMuon, muon_multiplier
from mufree.optim.parametrization import parametrize
from mufree.optim.rates import set_lr
from mufree.optim.resuming import resume, saving
from mufree.optim.schedules import warmup_factor

__all__ = [
    "VARIANTS",
    "BaseShapesError",
    "CheckpointError",
    "Decay",
    "EpsScale",
    "Family",
    "Growth",
    "MuAdamW",
    "MuAdamW_ScheduleFree",
    "MuMuon",
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
    "export",
    "growth_of",
    "is_schedule_free",
    "load_base_shapes",
    "load_checkpoint",
    "lr_multiplier",
    "muon_multiplier",
    "mup_param_groups",
    "parametrize",
    "recompute_batchnorm",
    "resume",
    "save_base_shapes",
    "save_checkpoint",
    "saving",
    "set_lr",
    "warmup_factor",
]
