"""`mufree coordcheck`: a study's coordinate checks for the workflow, or that of one's own model as a gate for CI."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mufree.cli.inputs import Command, UserError, load_data, load_study, task_of
from mufree.study import config
from mufree.study.plan import Run, make_run

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from mufree.lab.data import Prepared

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownOptimizer:
    """A constructor of `mufree.optim`, the learning rate it is checked at, and further settings.

    Adam's ε is 1e-12, so that it is the multipliers that are checked: 1e-8 can bite as gradients shrink with width.
    """

    constructor: str
    lr: float
    settings: dict[str, Any]


_ADAM = {"betas": (0.9, 0.99), "eps": 1e-12}
OPTIMIZERS = {
    "adamw": KnownOptimizer("MuAdamW", 2**-9, _ADAM),
    "adamw_schedulefree": KnownOptimizer("MuAdamW_ScheduleFree", 2**-9, _ADAM),
    "radam_schedulefree": KnownOptimizer("MuRAdam_ScheduleFree", 2**-9, _ADAM),
    "sgd_schedulefree": KnownOptimizer("MuSGD_ScheduleFree", 2**-3, {}),
}
FIGURE_KINDS = (".pdf", ".png", ".svg")
SHOWN_FAILURES = 10

RADAM_STANDS_STILL = 4
"""Steps in which RAdam's rectification is zero: its ρ_t is at most t, and has to be above 4 (Liu et al. 2020)."""


def add_commands(command: Command) -> None:
    """Add it; `command(name, handler, summary, example)` makes it."""
    sub = command(
        "coordcheck",
        coordcheck,
        "Watch activations against width: of your own model, or for every method of a study's task.",
        "model.py:make_model --optimizer adamw_schedulefree --widths 64,128,256\n"
        "  mufree coordcheck --study experiments/quickstart.yaml --task photo-mlp --data data/photo --out check.parquet",
    )
    _add_arguments(sub)


def _add_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of both forms."""
    own = sub.add_argument_group(
        "your own model",
        "FILE defines make_model(width, seed), which returns an initialised model with base shapes, and make_batch(seed), "
        "which returns (inputs, targets). Exit code 0 if the check passes at y and x, 1 if it fails, 2 for wrong usage.",
    )
    own.add_argument("target", nargs="?", metavar="FILE[:FUNCTION]", help="the file, and make_model's name in it")
    own.add_argument(
        "--optimizer",
        default="adamw_schedulefree",
        metavar="NAME",
        help=f"{', '.join(OPTIMIZERS)}, or a function of FILE that takes the model (default adamw_schedulefree)",
    )
    own.add_argument(
        "--loss", metavar="NAME", help="a function of FILE: (outputs, targets) → loss (default cross-entropy)"
    )
    own.add_argument("--widths", type=widths, default=[64, 128, 256], help="at least two (default 64,128,256)")
    own.add_argument("--lr", type=learning_rate, help="0.002 or 2^-9 (default 2^-9; 2^-3 for sgd_schedulefree)")
    own.add_argument("--steps", type=int, default=10, help="steps to train (default 10)")
    own.add_argument("--seeds", type=int, default=5, help="number of seeds (default 5)")
    own.add_argument("--figure", type=Path, help="figure to write: .pdf, .png or .svg")
    study = sub.add_argument_group("a study's task")
    study.add_argument("--study", type=Path, help="the study file; needs --task, --data and --out")
    study.add_argument("--task", help="its task")
    study.add_argument("--data", type=Path, help="folder of the prepared data set")
    sub.add_argument("--out", type=Path, help="file to write: slopes (CSV), or for a study activations (Parquet)")


def coordcheck(arguments: argparse.Namespace) -> None:
    """`mufree coordcheck`."""
    if (arguments.target is None) == (arguments.study is None):
        raise UserError("give either FILE:FUNCTION, for a model of your own, or --study", 2)
    if arguments.target is not None:
        _check_own(arguments)
        return
    missing = [f"--{name}" for name in ("task", "data", "out") if getattr(arguments, name) is None]
    if missing:
        raise UserError(f"--study needs {', '.join(missing)}", 2)
    _check_study(arguments)


def _check_study(arguments: argparse.Namespace) -> None:
    """Activations of every method of a study's task, as a table of its own."""
    import pandas as pd
    import pyarrow as pa

    from mufree.study import record

    study = load_study(arguments.study)
    task = task_of(study, arguments.task)
    grids = [grid for grid in study.grids if arguments.task in grid.tasks]
    widths = task.coordinate_check.widths or sorted({width for grid in grids for width in grid.widths})
    prepared = load_data(arguments.data)
    frames = []
    checked: dict[config.Method, pd.DataFrame] = {}
    for method in dict.fromkeys(method for grid in grids for method in grid.methods):
        # A few steps at the full rate: what schedule and average do later makes no difference, so that methods share a check.
        distinct = study.all_methods[method].model_copy(update={"schedule": "constant", "average": "none"})
        if distinct not in checked:
            make = partial(make_run, task, arguments.task, distinct, method)
            checked[distinct] = _check_method(make, widths, task.coordinate_check, prepared)
        frames.append(checked[distinct].assign(task=arguments.task, method=method))
        log.info("%s %s: widths %s", arguments.task, method, ", ".join(map(str, widths)))
    record.write_table(arguments.out, pa.Table.from_pandas(pd.concat(frames), preserve_index=False))


def _check_method(
    make: Callable[[int, int, int], Run], widths: list[int], settings: config.CoordinateCheck, prepared: Prepared
) -> pd.DataFrame:
    """The coordinate check of one method; `make(width, log2_lr, seed)` gives its run.

    Steps are counted from the last one before which no weight can have moved: schedule-free RAdam stands still at first.
    """

    from mufree.lab.coordcheck import coord_check
    from mufree.lab.data.batches import train_batches
    from mufree.lab.train.run import configure_torch, make_model, make_optimizer

    configure_torch()
    # No warm-up and no schedule: ten steps at the full rate. In float32, since a slope is the network's and no rounding's.
    run = make(widths[0], settings.log2_lr, 0)
    run = run.model_copy(
        update={"training": run.training.model_copy(update={"warmup_fraction": 0.0, "precision": "float32"})}
    )
    still = RADAM_STANDS_STILL if run.method.optimizer == "radam_schedulefree" else 0
    run_of: dict[nn.Module, Run] = {}

    def model_of(width: int, seed: int) -> nn.Module:
        its_run = run.model_copy(update={"width": width, "seed": seed})
        model = make_model(its_run, prepared.classes)
        run_of.clear()  # one model is alive at a time
        run_of[model] = its_run
        return model

    def batch(seed: int) -> Any:
        size, context = settings.batch_size, run.model.context
        return next(train_batches(prepared, batch_size=size, context_length=context, seed=seed))

    frame = coord_check(
        model_of,
        lambda model: make_optimizer(run_of[model], model),
        widths,
        batch,
        steps=settings.steps + still,
        seeds=settings.seeds,
    )
    return frame[frame["step"] >= still].assign(step=lambda kept: kept["step"] - still)


def _check_own(arguments: argparse.Namespace) -> None:
    """Print the verdict; raise `UserError` if the check fails or can't be made."""
    from mufree.analysis import tables
    from mufree.analysis.coordcheck import first_judged_step, slopes, verdict
    from mufree.lab.coordcheck import coord_check, cross_entropy
    from mufree.optim import BaseShapesError
    from mufree.study import record

    file, _, name = arguments.target.partition(":")
    module = _load(Path(file))
    make_model = _function(module, name or "make_model", "(width, seed), which returns a model with base shapes")
    make_batch = _function(module, "make_batch", "(seed), which returns (inputs, targets)")
    loss = _function(module, arguments.loss, "(outputs, targets), the loss") if arguments.loss else cross_entropy
    make_optimizer, described = _optimizer(module, arguments.optimizer, arguments.lr)
    if arguments.figure and arguments.figure.suffix not in FIGURE_KINDS:
        raise UserError(f"--figure {arguments.figure}: its name must end in {', '.join(FIGURE_KINDS)}", 2)
    settings = {"loss": loss, "steps": arguments.steps, "seeds": arguments.seeds}
    try:
        frame = coord_check(make_model, make_optimizer, arguments.widths, make_batch, **settings)
    except BaseShapesError as error:
        raise UserError(str(error)) from error
    table = slopes(frame)
    try:
        first_step = first_judged_step(frame)
        verdicts = verdict(table, first_step=first_step)
    except ValueError as error:  # too few steps
        raise UserError(str(error), 2) from error
    shown_widths = ", ".join(map(str, arguments.widths))
    print(
        f"{arguments.target}, {described}, widths {shown_widths}, {arguments.seeds} seeds, steps {first_step}–{arguments.steps}"
    )
    shown = verdicts[
        ["at", "passed", "worst_module", "worst_slope", "worst_low", "worst_high", "n_failed", "n_checked"]
    ]
    print(shown.to_string(index=False, float_format="{:+.3f}".format))
    if arguments.out:
        record.write_text(arguments.out, tables.to_csv(table))
    if arguments.figure:
        _draw(table, verdicts, arguments)
    if not verdicts["passed"].all():
        raise UserError(_failures(table[table["step"] >= first_step]))


def _failures(judged: pd.DataFrame) -> str:
    """The modules that failed, the steepest first, each with its steepest slope."""
    from mufree.analysis.coordcheck import JUDGED_LAYERS, MAX_SLOPE

    failed = judged[judged["layer"].isin(JUDGED_LAYERS) & ~judged["passed"]]
    steepness = failed["slope"].abs().fillna(float("inf"))
    worst = failed.loc[steepness.sort_values(ascending=False).index].drop_duplicates(["module", "quantity"])
    lines = [
        f"  {row.module} ({row.layer}): {row.quantity} goes as width^{row.slope:+.2f} at {row.at}, step {row.step}"
        for row in worst.head(SHOWN_FAILURES).itertuples()
    ]
    more = [f"  and {len(worst) - SHOWN_FAILURES} more"] if len(worst) > SHOWN_FAILURES else []
    return "\n".join([f"the check fails, |slope| is not below {MAX_SLOPE}:", *lines, *more])


def _draw(table: pd.DataFrame, verdicts: pd.DataFrame, arguments: argparse.Namespace) -> None:
    from mufree.publish import figures
    from mufree.study import record

    figure = figures.draw_coordcheck(table, verdicts, title=arguments.target, name=arguments.optimizer)
    with record.atomic(arguments.figure) as path:
        figure.savefig(path, format=arguments.figure.suffix[1:])


def _optimizer(module: ModuleType, name: str, lr: float | None) -> tuple[Callable[..., Any], str]:
    """The function that makes the optimizer, and words for it."""
    if name not in OPTIMIZERS:
        if not callable(getattr(module, name, None)):
            raise UserError(
                f"Unknown optimizer '{name}'. Known: {', '.join(OPTIMIZERS)}, or a function of {module.__file__}", 2
            )
        if lr is not None:
            raise UserError(f"--lr is for {', '.join(OPTIMIZERS)}; {name} of {module.__file__} sets its own", 2)
        make: Callable[..., Any] = getattr(module, name)
        return make, name
    from mufree import optim

    known = OPTIMIZERS[name]
    constructor = getattr(optim, known.constructor)
    rate = known.lr if lr is None else lr
    return lambda model: constructor(model.parameters(), lr=rate, **known.settings), f"{name} at lr {rate:g}"


def _load(path: Path) -> ModuleType:
    """The user's file as a module, which may import its neighbours."""
    if not path.is_file():
        raise UserError(f"no file {path}", 2)
    name = f"checked_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file", 2)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent.resolve()))
    spec.loader.exec_module(module)
    return module


def _function(module: ModuleType, name: str, contract: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if not callable(found):
        raise UserError(f"{module.__file__} has no function {name}{contract}", 2)
    function: Callable[..., Any] = found
    return function


def widths(text: str) -> list[int]:
    """Two or more different widths from `64,128`."""
    found = [int(width) for width in text.split(",")]
    if len(set(found)) < 2 or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"'{text}' must be two or more different widths")
    return found


def learning_rate(text: str) -> float:
    """A learning rate from `0.002` or `2^-9`."""
    base, power, exponent = text.partition("^")
    try:
        rate = float(base) ** float(exponent) if power else float(base)
    except (ValueError, OverflowError, ZeroDivisionError):
        rate = math.nan
    if not (isinstance(rate, float) and 0 < rate < math.inf):
        raise argparse.ArgumentTypeError(f"'{text}' must be a finite number above 0, such as 0.002 or 2^-9")
    return rate
