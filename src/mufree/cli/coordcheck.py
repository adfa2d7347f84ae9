"""`mufree coordcheck`: a study's coordinate checks for the workflow, or that of one's own model as a gate for CI."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from mufree.cli.commands import command
from mufree.cli.inputs import UserError, load_study, mendable, task_of

if TYPE_CHECKING:
    import pandas as pd

FIGURE_KINDS = (".pdf", ".png", ".svg")
SHOWN_FAILURES = 10


def _widths(_: object, tokens: Sequence[Any]) -> tuple[int, ...]:
    """Two or more different widths from `64,128`."""
    text = tokens[0].value
    found = tuple(int(width) for width in text.split(",") if width.isdecimal())
    if len(set(found)) < 2 or len(set(found)) < len(text.split(",")):
        raise ValueError(f"'{text}' must be two or more different widths")
    return found


def _learning_rate(_: object, tokens: Sequence[Any]) -> float:
    """A learning rate from `0.002` or `2^-9`."""
    base, power, exponent = tokens[0].value.partition("^")
    try:
        rate = float(base) ** float(exponent) if power else float(base)
    except (ValueError, OverflowError, ZeroDivisionError):
        rate = math.nan
    if not (isinstance(rate, float) and 0 < rate < math.inf):
        raise ValueError(f"'{tokens[0].value}' must be a finite number above 0, such as 0.002 or 2^-9")
    return rate


@command(
    "model.py:make_model --optimizer adamw_schedulefree --widths 64,128,256\n"
    "  mufree coordcheck --study experiments/quickstart.yaml --task photo-mlp --data data/photo --out check.parquet"
)
def coordcheck(
    target: Annotated[str | None, Parameter(name="FILE:FUNCTION")] = None,
    /,
    *,
    optimizer: str = "adamw_schedulefree",
    loss: str | None = None,
    widths: Annotated[tuple[int, ...], Parameter(converter=_widths, n_tokens=1, show_default=False)] = (64, 128, 256),
    lr: Annotated[float | None, Parameter(converter=_learning_rate)] = None,
    steps: int = 10,
    seeds: int = 5,
    figure: Path | None = None,
    study: Path | None = None,
    task: str | None = None,
    data: Path | None = None,
    out: Path | None = None,
) -> None:
    """Watch activations against width: of your own model, or for every method of a study's task.

    For your own model, FILE defines make_model(width, seed), which returns an initialised model with base shapes, and
    make_batch(seed), which returns (inputs, targets). Exit code 0 if the check passes at y and x, 1 if it fails, 2 for wrong
    usage.

    Args:
        target: the file, and make_model's name in it
        optimizer: adamw, adamw_schedulefree, radam_schedulefree, sgd_schedulefree, or a function of FILE that takes the model
        loss: a function of FILE: (outputs, targets) → loss (default cross-entropy)
        widths: at least two (default 64,128,256)
        lr: 0.002 or 2^-9 (default 2^-9; 2^-3 for sgd_schedulefree)
        steps: steps to train
        seeds: number of seeds
        figure: figure to write: .pdf, .png or .svg
        study: the study file; needs --task, --data and --out
        task: its task
        data: folder of the prepared data set
        out: file to write: slopes (CSV), or for a study activations (Parquet)
    """
    if target is None and study is not None:
        _check_study(study, task, data, out)
    elif target is not None and study is None:
        from mufree.lab.coordcheck import ModelFileError, check_file
        from mufree.optim import BaseShapesError

        if figure is not None and figure.suffix not in FIGURE_KINDS:
            raise UserError(f"--figure {figure}: its name must end in {', '.join(FIGURE_KINDS)}", 2)
        with mendable(ModelFileError, exit_code=2), mendable(BaseShapesError):
            frame, described = check_file(target, optimizer, lr, loss, widths=widths, steps=steps, seeds=seeds)
        about = f"{target}, {described}, widths {', '.join(map(str, widths))}, {seeds} seeds"
        _judge(frame, about, target, optimizer, figure, out)
    else:
        raise UserError("give either FILE:FUNCTION, for a model of your own, or --study", 2)


def _check_study(study: Path, task: str | None, data: Path | None, out: Path | None) -> None:
    """Activations of every method of a study's task, as a table of its own."""
    if task is None or data is None or out is None:
        missing = [f"--{name}" for name, value in (("task", task), ("data", data), ("out", out)) if value is None]
        raise UserError(f"--study needs {', '.join(missing)}", 2)
    planned = load_study(study)
    task_of(planned, task)
    import pyarrow as pa

    from mufree.lab.coordcheck import check_task
    from mufree.lab.data import DataError, load
    from mufree.study import record

    with mendable(DataError):
        prepared = load(data)
    record.write_table(out, pa.Table.from_pandas(check_task(planned, task, prepared), preserve_index=False))


def _judge(frame: pd.DataFrame, about: str, target: str, optimizer: str, figure: Path | None, out: Path | None) -> None:
    """Print the verdict, write what is asked for; raise `UserError` if the check fails."""
    from mufree.analysis import tables
    from mufree.analysis.coordcheck import first_judged_step, slopes, verdict
    from mufree.publish import figures
    from mufree.study import files

    table = slopes(frame)
    with mendable(ValueError, exit_code=2):  # too few steps
        first_step = first_judged_step(frame)
        verdicts = verdict(table, first_step=first_step)
    print(f"{about}, steps {first_step}–{frame['step'].max()}")
    shown = ["at", "passed", "worst_module", "worst_slope", "worst_low", "worst_high", "n_failed", "n_checked"]
    print(verdicts[shown].to_string(index=False, float_format="{:+.3f}".format))
    if out is not None:
        files.write_text(out, tables.to_csv(table))
    if figure is not None:
        drawn = figures.draw_coordcheck(table, verdicts, title=target, name=optimizer)
        with files.atomic(figure) as path:
            drawn.savefig(path, format=figure.suffix[1:])
    if not verdicts["passed"].all():
        raise UserError(_failures(table[table["step"] >= first_step]))


def _failures(judged: pd.DataFrame) -> str:
    """The modules that failed, the steepest first, each with its steepest slope."""
    from mufree.analysis.coordcheck import JUDGED_LAYERS
    from mufree.study.limits import MAX_SLOPE

    failed = judged[judged["layer"].isin(JUDGED_LAYERS) & ~judged["passed"]]
    steepness = failed["slope"].abs().fillna(float("inf"))
    worst = failed.loc[steepness.sort_values(ascending=False).index].drop_duplicates(["module", "quantity"])
    lines = [
        f"  {row.module} ({row.layer}): {row.quantity} goes as width^{row.slope:+.2f} at {row.at}, step {row.step}"
        for row in worst.head(SHOWN_FAILURES).itertuples()
    ]
    more = [f"  and {len(worst) - SHOWN_FAILURES} more"] if len(worst) > SHOWN_FAILURES else []
    return "\n".join([f"the check fails, |slope| is not below {MAX_SLOPE}:", *lines, *more])
