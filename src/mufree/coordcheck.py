"""The coordinate check: sizes and changes of activations against width, for any model and any optimizer.

Under µP the entries of every activation, and how far a few steps move them, don't depend on width (Yang et al. 2022, appendix
D.1). For a schedule-free optimizer that must hold twice: at y, where gradients are taken, and at x, the average that is
evaluated. How much of a layer's output comes from what its weights have learnt is measured too, and not judged.

Importing this module loads neither torch nor pandas, so that the metrics, which need `slopes` and `verdict`, can stay without
torch.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn
    from torch.optim import Optimizer

At = Literal["y", "x"]
Batch = tuple["Tensor", "Tensor"]

MAX_SLOPE = 0.1
"""A slope of log2 activation on log2 width below this, in absolute value, counts as none."""
FIRST_STEP = 2
"""First step that is judged: with a zero readout no gradient reaches the other layers at the first step."""
JUDGED_LAYERS = ("embedding", "hidden", "readout")
"""Layer types whose modules are judged. A normalisation's output has the size its weight gives it whatever comes in, so it is
recorded and not judged."""
JUDGED_QUANTITIES = ("size", "change")
"""Quantities whose slopes are judged."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits [..., classes] against targets [...], class indices."""
    from torch.nn import functional as F

    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def coord_check(
    make_model: Callable[[int, int], nn.Module],
    make_optimizer: Callable[[nn.Module], Optimizer],
    widths: Sequence[int],
    batch: Batch | Callable[[int], Batch],
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    steps: int = 10,
    seeds: int | Sequence[int] = 5,
    at: Iterable[At] = ("y", "x"),
) -> pd.DataFrame:
    """Train on one fixed batch at each width and seed; record the output of every module that owns parameters itself.

    `make_model(width, seed)` returns an initialised model, `make_optimizer(model)` its optimizer, `batch` is
    (inputs, targets) or a function of the seed that returns them, `seeds` a number or a list.

    One row for each (width, seed, step = 0…steps, module, at): `layer`, the layer type of the module's weight
    (`parametrization.layer_types`); `mean_abs`, the mean of |h| over the batch and all coordinates; `mean_abs_change`, that
    of |h_t − h_0|; `relative`, the relative representation change. A module called n > 1 times in a forward pass has rows
    `name`, `name#1`, …, `name#n−1`; one that the forward pass does not call has none, nor has the model as a whole. For an
    optimizer that is not schedule-free x and y are the same weights, and their rows are equal.

    The relative representation change is ‖ΔW·X‖ / ‖W·X‖ (Everett et al. 2024) for Linear, Conv2d and Embedding, without their
    bias: X, W and ΔW = W_t − W_0 are those of step t, and the norms are over the batch and all coordinates. It is NaN for other
    modules and where W·X is zero; a layer that starts at zero has 1 from its first update on.

    The model stays in train mode, at x too: BatchNorm then normalises by the statistics of the batch at the very weights
    that are measured, whereas its running statistics are those of earlier ones. Measuring does not change what is trained.
    Models with dropout have to be made without it, since its noise is no change of a weight.

    Raises ValueError for fewer than two widths: which dimensions grow is read from the first two.
    """
    import pandas as pd

    widths, at = list(widths), tuple(at)
    seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if len(set(widths)) < 2 or len(set(widths)) < len(widths):
        raise ValueError(f"widths must be two or more different ones, got {widths}")
    layers = _module_layers(make_model(widths[0], seeds[0]), make_model(widths[1], seeds[0]))
    rows: list[dict[str, Any]] = []
    for width in widths:
        for seed in seeds:
            model = make_model(width, seed)
            inputs, targets = batch(seed) if callable(batch) else batch
            for row in _measured_training(model, make_optimizer(model), inputs, targets, loss, steps, at, layers):
                rows.append({"width": width, "seed": seed, **row})
    return pd.DataFrame(rows)


def slopes(frame: pd.DataFrame) -> pd.DataFrame:
    """Slope of log2 size, change and relative change on log2 width, for each module, place and step of `coord_check`'s frame.

    Columns: module, layer, at, step, quantity ("size", "change" or "relative"), slope, slope_low, slope_high, passed
    (|slope| < 0.1). The slope is the least-squares slope of the seed mean. The interval is the 95 % delete-one-seed jackknife
    interval with a t quantile; as each seed has all widths, that is mean ± t·s/√S of the seeds' own slopes. With one seed it is
    NaN.

    Where an activation or a change is zero or not finite at any width and seed, there is no logarithm: the slope is NaN and
    has not passed. Changes at step 0 are left out; modules, and frames, without a relative change have no slope of it. Columns
    that `coord_check` does not make, such as task and method, are kept as keys.
    """
    import numpy as np
    import pandas as pd
    from scipy.stats import t as student

    extra = [c for c in frame.columns if c not in {*_KEYS, "width", "seed", *_QUANTITIES.values()}]
    keys = [*extra, *_KEYS]
    parts = []
    for quantity, column in _QUANTITIES.items():
        used = frame if quantity == "size" else frame[frame["step"] > 0]
        if quantity == "relative":
            if column not in used or used[column].isna().all():
                continue
            used = used[used.groupby([*extra, "module"])[column].transform("count") > 0]
        values = used.set_index([*keys, "seed", "width"])[column].unstack("width")
        log_width = np.log2(values.columns.to_numpy(dtype=float))
        centred = log_width - log_width.mean()
        finite = values.where((values > 0) & (values < math.inf)).to_numpy(dtype=float)
        per_seed = pd.Series(np.log2(finite) @ centred / (centred @ centred), index=values.index)
        groups = per_seed.groupby(level=keys, sort=False)
        count = groups.size()
        # skipna=False: a seed without a slope must not drop out silently.
        mean = groups.mean(skipna=False)
        half = student.ppf(0.975, (count - 1).where(count > 1)) * groups.std(skipna=False) / np.sqrt(count)
        part = pd.DataFrame({"slope": mean, "slope_low": mean - half, "slope_high": mean + half}).reset_index()
        part.insert(len(keys), "quantity", quantity)
        parts.append(part)
    result = pd.concat(parts, ignore_index=True)
    result["passed"] = result["slope"].abs() < MAX_SLOPE
    return result


def first_judged_step(frame: pd.DataFrame) -> int:
    """The step after the first one that moved anything, in `coord_check`'s frame: `FIRST_STEP` where the first one does.

    For optimizers that start late, whose changes are zero until then: RAdam, which by default moves nothing for five steps, and
    a warm-up from a learning rate of zero. Raises ValueError if nothing moved at all.
    """
    moved = frame.loc[frame["mean_abs_change"] > 0, "step"]
    if moved.empty:
        raise ValueError(f"nothing moved in {frame['step'].max()} steps; use more steps or a larger learning rate")
    return int(moved.min()) + FIRST_STEP - 1


def verdict(slopes: pd.DataFrame, *, first_step: int = FIRST_STEP) -> pd.DataFrame:
    """Whether the coordinate check passes, one row for each place (`at`), from the table that `slopes` returns.

    It passes if size and change of every embedding, hidden and readout module have |slope| < 0.1 at every step ≥ `first_step`
    (see `first_judged_step`); a slope that is NaN fails. The readout is among them since it starts at zero (Yang et al. 2022,
    appendix D.2): logits that start at random fall as width^-½ under µP and would fail. The relative change is not judged.
    Columns: at, passed, worst_module, worst_slope with its interval worst_low and worst_high, n_failed, n_sure, n_checked;
    more key columns as in `slopes`. n_sure are the failing slopes that are NaN or whose interval lies outside ±0.1 as a whole:
    where a check fails and none is sure, its seeds are too few to tell.

    Raises ValueError if there is nothing to judge.
    """
    import pandas as pd

    judged = slopes[
        slopes["layer"].isin(JUDGED_LAYERS)
        & (slopes["step"] >= first_step)
        & slopes["quantity"].isin(JUDGED_QUANTITIES)
    ]
    if judged.empty:
        raise ValueError(f"no module of type {', '.join(JUDGED_LAYERS)} at a step ≥ {first_step}; use more steps")
    known = {*_KEYS, "quantity", "slope", "slope_low", "slope_high", "passed"}
    keys = [*(c for c in slopes.columns if c not in known), "at"]
    rows = []
    for key, group in judged.groupby(keys, sort=False):
        worst = group.iloc[group["slope"].abs().fillna(math.inf).argmax()]
        rows.append(
            dict(zip(keys, key, strict=True))
            | {
                "passed": bool(group["passed"].all()),
                "worst_module": worst["module"],
                "worst_slope": worst["slope"],
                "worst_low": worst["slope_low"],
                "worst_high": worst["slope_high"],
                "n_failed": int((~group["passed"]).sum()),
                "n_sure": int(_surely_failed(group).sum()),
                "n_checked": len(group),
            }
        )
    return pd.DataFrame(rows)


def tables(measured: Iterable[pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """A study's tables `coordcheck`, of slopes, and `coordcheck_verdict`, from its raw checks; none of them without a check.

    A frame a task, since tasks have different widths.
    """
    import pandas as pd

    found = [slopes(frame) for frame in measured]
    if not found:
        return {}
    joined = pd.concat(found, ignore_index=True)
    return {"coordcheck": joined, "coordcheck_verdict": verdict(joined)}


def _surely_failed(slopes: pd.DataFrame) -> pd.Series[bool]:
    """Where a slope is NaN, or its whole interval lies beyond the bound on one side."""
    return slopes["slope"].isna() | (slopes["slope_low"] >= MAX_SLOPE) | (slopes["slope_high"] <= -MAX_SLOPE)


_KEYS = ("module", "layer", "at", "step")
_QUANTITIES = {"size": "mean_abs", "change": "mean_abs_change", "relative": "relative"}


def _module_layers(narrow: nn.Module, wide: nn.Module) -> dict[str, str]:
    """Layer type of every module that owns parameters itself, by name; dimensions of width are those that differ."""
    import mup

    from mufree.parametrization import classify

    infshapes = mup.zip_infshapes(narrow, wide)
    of_parameter = {id(p): infshapes[name] for name, p in narrow.named_parameters()}
    # `mup` knows a tied weight under its first name only, and the second is often the readout.
    every_name = {name: of_parameter[id(p)] for name, p in narrow.named_parameters(remove_duplicate=False)}
    layers: dict[str, str] = {}
    for name, layer in classify(narrow, every_name).items():
        module_name = name.rpartition(".")[0]
        # A model that holds a class token or the like puts out what its readout does.
        if module_name or not any(narrow.children()):
            layers.setdefault(module_name, layer)  # a module's first parameter is its weight
    return layers


def _measured_training(
    model: nn.Module,
    optimizer: Optimizer,
    inputs: Tensor,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    at: Sequence[At],
    layers: dict[str, str],
) -> Iterator[dict[str, Any]]:
    """Train `steps` steps and yield the rows of every step, 0…steps."""
    import torch

    from mufree.optim import evaluating, is_schedule_free

    measured: dict[str, dict[str, _Seen]] = {}
    initial = {
        name: weight.detach().clone() for name in layers if (weight := _weight(model.get_submodule(name))) is not None
    }

    def forward_and_backward() -> Tensor:
        with _recorded(model, layers, initial) as measured["y"]:  # the forward pass of training is the measurement at y
            objective = loss(model(inputs), targets)
        optimizer.zero_grad()
        objective.backward()  # type: ignore[no-untyped-call]
        return objective

    def measure_x() -> None:
        # `evaluating` gives weights and buffers back to the bit; the random state is ours to keep.
        devices = [inputs.device] if inputs.is_cuda else []
        with evaluating(optimizer, model), torch.random.fork_rng(devices), torch.no_grad():
            model.train()
            with _recorded(model, layers, initial) as measured["x"]:
                model(inputs)

    model.train()
    at_y_within_step = _needs_closure(optimizer)
    schedule_free = is_schedule_free(optimizer)
    if schedule_free:
        optimizer.train()  # type: ignore[attr-defined]
    start: dict[str, dict[str, _Seen]] = {}
    for step in range(steps + 1):
        if at_y_within_step:
            measure_x()
            optimizer.step(forward_and_backward)  # type: ignore[arg-type]  # one too many, since y can't be had without
        else:
            forward_and_backward()  # before the weights go to x, where y's graph is void
            if not schedule_free:
                measured["x"] = measured["y"]
            elif "x" in at:
                measure_x()
        for place in at:
            first = start.setdefault(place, measured[place])
            for name, (h, relative) in measured[place].items():
                yield {
                    "step": step,
                    "module": name,
                    "layer": layers[name.partition("#")[0]],
                    "at": place,
                    "mean_abs": h.abs().mean().item(),
                    "mean_abs_change": (h - first[name].output).abs().mean().item(),
                    "relative": relative,
                }
        if step < steps and not at_y_within_step:
            optimizer.step()


def _needs_closure(optimizer: Optimizer) -> bool:
    """Whether `step` can't be called without a closure; schedulefree's closure variants are at y within it alone."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


class _Seen(NamedTuple):
    """What one call of a module shows: its output, and its relative representation change or NaN."""

    output: Tensor
    relative: float


@contextmanager
def _recorded(model: nn.Module, names: Iterable[str], initial: dict[str, Tensor]) -> Iterator[dict[str, _Seen]]:
    """What the named modules show in the forward passes within, by name; in later calls under `name#1`, `name#2`, …

    `initial` are the initial weights of those that have a relative representation change.
    """
    seen: dict[str, _Seen] = {}

    def watch(name: str) -> Any:
        calls = 0

        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            nonlocal calls
            # A copy: a ReLU in place may follow. Recurrent layers return a tuple, the output first.
            h = output[0] if isinstance(output, tuple) else output
            relative = _relative_change(module, inputs[0], initial[name]) if inputs and name in initial else math.nan
            seen[f"{name}#{calls}" if calls else name] = _Seen(h.detach().float().clone(), relative)
            calls += 1

        return hook

    handles = [model.get_submodule(name).register_forward_hook(watch(name)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _weight(module: nn.Module) -> Tensor | None:
    """The weight of a module that is linear in its input but for a bias; None for others."""
    from torch import nn

    return module.weight if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding) else None


def _relative_change(module: nn.Module, inputs: Tensor, initial: Tensor) -> float:
    """‖ΔW·X‖ / ‖W·X‖ of a module with inputs X, whose weight W was `initial`; NaN where both are zero."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    weight = _weight(module)
    assert weight is not None

    def product(kernel: Tensor) -> Tensor:
        if isinstance(module, nn.Conv2d):
            convolved: Tensor = module._conv_forward(inputs, kernel, None)
            return convolved
        return F.embedding(inputs, kernel) if isinstance(module, nn.Embedding) else F.linear(inputs, kernel)

    with torch.no_grad():
        # Numbers that the inputs are multiplied by before, as µP's readout does, cancel.
        return float(product(weight - initial).norm() / product(weight).norm())
