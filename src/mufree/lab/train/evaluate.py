"""What a model is worth: its loss, and the share of right answers, on examples that were held out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mufree.lab.data import Prepared
from mufree.lab.data.batches import Batch, eval_batches
from mufree.lab.parametrization import layer_types
from mufree.study.plan import EVAL_BATCH, Run


@dataclass(frozen=True)
class Score:
    """Mean loss (nats) and share of right classes or next tokens over the examples of an evaluation."""

    loss: float
    accuracy: float


UNKNOWN = Score(math.nan, math.nan)


def held_out(run: Run, data: Prepared, split: Literal["valid", "test"], device: torch.device) -> list[Batch]:
    """What a run is evaluated on, the same for all runs of a task."""
    examples, context = run.training.eval_examples, run.model.context
    found = eval_batches(data, split, examples=examples, batch_size=EVAL_BATCH, context_length=context)
    return [(inputs.to(device), targets.to(device)) for inputs, targets in found]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in nats of logits [..., classes] against targets [...], class indices; in float32 or finer."""
    fine = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(fine.flatten(0, -2), targets.flatten())


def batch_loss(model: nn.Module, batch: Batch) -> Tensor:
    """`cross_entropy` of what the model makes of (inputs, targets)."""
    inputs, targets = batch
    return cross_entropy(model(inputs), targets)


def judged(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """`batch_loss`, and how many of the answers are right."""
    inputs, targets = batch
    logits = model(inputs)
    return cross_entropy(logits, targets), (logits.argmax(-1) == targets).sum()


def count_of(batch: Batch) -> int:
    """How many targets a batch has."""
    return batch[1].numel()


@dataclass(frozen=True)
class Objective:
    """What networks are trained by and judged by. For networks side by side `torch.vmap` needs a rule for all that it does."""

    loss: Callable[[nn.Module, Any], Tensor] = batch_loss
    """The loss of a network on a batch, a tensor of one number."""
    judged: Callable[[nn.Module, Any], tuple[Tensor, Tensor]] = judged
    """Mean loss on a batch, and how many answers are right."""
    count: Callable[[Any], int] = count_of
    """How much a batch counts in the mean of several."""
    layers: Callable[[nn.Module], Mapping[str, str]] = lambda model: {
        name: "weights" for name, _ in model.named_parameters()
    }
    """The layer type of each weight, by which norms are recorded."""


OF_STUDIES = Objective(layers=layer_types)
"""That of a study's networks."""
