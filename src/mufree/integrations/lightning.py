"""Schedule-free optimizers in Lightning: training at y, evaluation and checkpoints at x."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer

from mufree.optim import evaluating, resume, saving
from mufree.optim.batches import Forward
from mufree.optim.resuming import rest


class ScheduleFreeCallback(Callback):
    """`Trainer(callbacks=[ScheduleFreeCallback()])`: trains at y; validates, tests, predicts and saves at x.

    Works with all optimizers of `configure_optimizers`; those that average nothing are left alone. What looks at x leaves no
    trace: how often one validates or saves doesn't change what is trained. When training ends, the module stays at x.

    All that `trainer.save_checkpoint` writes, by whichever callback, has x in "state_dict". `fit(ckpt_path=)` goes on from it
    to the bit, with this callback; without it the optimizer's first step raises, since it isn't in train mode. Base shapes
    are not saved: make the module by `parametrize` as it was.

    `batches` are model inputs for BatchNorm's statistics at x, as for `evaluating`; `forward(module, batch)` runs the module.
    Layers that are frozen in training are left as they are. All batches are run at each validation and each save, so give some
    in a list; a data loader will do, but draws random numbers.

    Put it first among callbacks that look at weights: hooks of those before it see y. `on_validation_end` of the module, and of
    callbacks after this one, are back at y.
    """

    def __init__(self, batches: Iterable[Any] | None = None, forward: Forward | None = None) -> None:
        self.batches, self.forward = batches, forward
        self._at_x = ExitStack()
        self._flags: dict[nn.Module, bool] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have `trainer.save_checkpoint` save at x: Lightning has no hook for checkpoints with weights alone."""
        save = trainer.save_checkpoint
        if getattr(save, "at_x", None) is self:
            return

        @functools.wraps(save)
        def save_checkpoint(*args: Any, **kwargs: Any) -> None:
            module = trainer.lightning_module
            optimizers = _optimizers(trainer, module) if module is not None else []
            if not optimizers:
                return save(*args, **kwargs)
            with saving(optimizers, module, self._batches(module), self.forward):
                return save(*args, **kwargs)

        save_checkpoint.at_x = self  # type: ignore[attr-defined]
        trainer.save_checkpoint = save_checkpoint  # type: ignore[method-assign]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on from what was loaded, or begin."""
        if optimizers := _optimizers(trainer, pl_module):
            resume(optimizers, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember which layers are frozen: Lightning has the module in eval mode when validation starts."""
        if self.batches is not None:
            self._flags = {module: module.training for module in pl_module.modules()}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the module at x."""
        self._flags.clear()
        if optimizers := _optimizers(trainer, pl_module):
            rest(optimizers, pl_module, self._batches(pl_module), self.forward)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Go back to y, for whatever saves now."""
        self._at_x.close()

    def _batches(self, module: LightningModule) -> Iterable[Any] | None:
        return None if self.batches is None else (move_data_to_device(each, module.device) for each in self.batches)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go to x."""
        if not (optimizers := _optimizers(trainer, pl_module)):
            return
        for module, training in self._flags.items():
            module.training = training
        self._at_x.enter_context(evaluating(optimizers, pl_module, self._batches(pl_module), self.forward))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back."""
        self._at_x.close()

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end


def _optimizers(trainer: Trainer, module: nn.Module) -> list[Optimizer]:
    """Those of the module: a trainer keeps its optimizers when it is given another module to test."""
    its = set(module.parameters())
    return [
        each for each in trainer.optimizers if any(p in its for group in each.param_groups for p in group["params"])
    ]
