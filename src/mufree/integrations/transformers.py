"""Schedule-free optimizers in transformers' Trainer: training at y, evaluation and checkpoints at x, and no decay."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from accelerate.utils import send_to_device
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mufree.optim import is_schedule_free, resume, saving
from mufree.optim.batches import Forward
from mufree.optim.resuming import forget, rest

CURE = (
    'Say TrainingArguments(lr_scheduler_type="constant"), or give Trainer '
    "optimizers=(optimizer, get_constant_schedule(optimizer))."
)


class ScheduleFreeCallback(TrainerCallback):
    """`Trainer(..., optimizers=(optimizer, None), callbacks=[ScheduleFreeCallback()])`, with `lr_scheduler_type="constant"`.

    Trainer itself calls a schedule-free optimizer's `train()` and `eval()`. Those interpolate, so that how often one evaluates
    changes what is trained; it saves at y; and the learning rate decays linearly by its default. With this callback,
    evaluation and checkpoints are at x and leave no trace, `resume_from_checkpoint` goes on to the bit, and a schedule is a
    ValueError when training begins. When it ends, the model stays at x, or at the best checkpoint's x with
    `load_best_model_at_end`.

    `batches` are model inputs for BatchNorm's statistics at x, as for `evaluating`. All are run at the end of each epoch, and
    for each evaluation or save between; `forward(model, batch)` runs the model. For a `MuScheduleFreeWrapper`, which is no
    torch optimizer, give `optimizers=(wrapper, get_constant_schedule(wrapper.base))`.

    Raises RuntimeError if Trainer evaluates or saves when the weights aren't at x: another callback asks for that, and has to
    come before this one. Base shapes are not saved: make the model by `parametrize` as it was.
    """

    def __init__(self, batches: Iterable[Any] | None = None, forward: Forward | None = None) -> None:
        self.batches, self.forward = batches, forward
        self._training = False
        self._at_x: AbstractContextManager[None] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse a schedule; go on from what was loaded, or begin."""
        if is_schedule_free(kwargs["optimizer"]):
            _refuse_schedule(kwargs["lr_scheduler"], state.max_steps)
        self._leave_interrupted(resumed=state.global_step > 0)
        resume(kwargs["optimizer"], kwargs["model"])
        self._training = True
        if args.eval_on_start:
            self._enter(**kwargs)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go back to y."""
        self._leave()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Go to x for what Trainer does next."""
        if control.should_evaluate or control.should_save:
            self._enter(**kwargs)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Go to x: after the last epoch, Trainer may load the best checkpoint, which is at x."""
        self._enter(**kwargs)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Raise if it wasn't at x."""
        self._check("evaluated")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Raise if it wasn't at x."""
        self._check("saved")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the model at x."""
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        final = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self._leave()
        rest(optimizer, model)
        model.load_state_dict(final)
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            forget(optimizer)
        self._training = False

    def _batches(self, model: nn.Module) -> Iterable[Any] | None:
        device = next(model.parameters()).device
        return None if self.batches is None else (send_to_device(each, device) for each in self.batches)

    def _enter(self, model: Any, optimizer: Optimizer, **_: Any) -> None:
        if self._at_x is None:
            self._at_x = saving(optimizer, model, self._batches(model), self.forward)
            self._at_x.__enter__()

    def _leave(self) -> None:
        context, self._at_x = self._at_x, None
        if context is not None:
            context.__exit__(None, None, None)

    def _leave_interrupted(self, resumed: bool) -> None:
        """Go back to y if an exception has ended an earlier training at x, unless a checkpoint has been loaded over it."""
        if self._at_x is not None and resumed:
            raise RuntimeError(
                "An evaluation or a save was interrupted. To resume, make model, optimizer and Trainer anew."
            )
        self._leave()

    def _check(self, done: str) -> None:
        if self._training and self._at_x is None:
            raise RuntimeError(
                f"Trainer has {done} while training was not at x, since a callback after ScheduleFreeCallback asked for it. "
                "Give ScheduleFreeCallback last."
            )


def _refuse_schedule(scheduler: Any, steps: int) -> None:
    """Raise ValueError unless the rate stays as it is."""
    scheduler = getattr(scheduler, "scheduler", scheduler)  # accelerate's wrapper
    constant = type(scheduler) is LambdaLR and all(
        rate(step) == 1 for rate in scheduler.lr_lambdas for step in {0, 1, steps // 2, steps}
    )
    if not constant:
        raise ValueError(
            f"Trainer changes the learning rate of a schedule-free optimizer by a {type(scheduler).__name__}; warm-up is the "
            f"optimizer's own. {CURE}"
        )
