"""`mufree coordcheck`: a study's coordinate checks for the workflow, or that of one's own model as a gate for CI."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from mufree.cli.commands import command
from mufree.cli.inputs import UserError, load_study, task_of

if TYPE_CHECKING:
    import pandas as pd

    from mufree.coordcheck import Outcome

FIGURE_KINDS = (".pdf", ".png", ".svg")
SHOWN_FAILURES = 10
EXIT_CODES = {"passed": 0, "failed": 1, "unsure": 3}
WORDS = {"failed": "the check fails", "unsure": "unsure: no slope is surely too steep, more --max-seeds may tell"}
NO_POWER = "is zero, infinite or NaN somewhere"
WRONG_USAGE = 2
CRASHED = 4
PACKAGE = Path(__file__).parents[1]


def _widths(_: object, tokens: Sequence[Any]) -> tuple[int, ...]:
    """Two or more different widths from `64,128`."""
    text = tokens[-1].value  # of an option given twice the last counts
    found = tuple(int(width) for width in text.split(",") if width.isdecimal() and int(width) > 0)
    if len(set(found)) < 2 or len(set(found)) < len(text.split(",")):
        raise ValueError(f"'{text}' must be two or more different widths, whole numbers above 0")
    return found


def _learning_rate(_: object, tokens: Sequence[Any]) -> float:
    """A learning rate from `0.002` or `2^-9`."""
    base, power, exponent = tokens[-1].value.partition("^")
    try:
        rate = float(base) ** float(exponent) if power else float(base)
    except (ValueError, OverflowError, ZeroDivisionError):
        rate = math.nan
    if not (isinstance(rate, float) and 0 < rate < math.inf):
        raise ValueError(f"'{tokens[-1].value}' must be a finite number above 0, such as 0.002 or 2^-9")
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
    max_seeds: int = 20,
    skip: Annotated[tuple[str, ...], Parameter(consume_multiple=False)] = (),
    figure: Path | None = None,
    study: Path | None = None,
    task: str | None = None,
    data: Path | None = None,
    out: Path | None = None,
) -> None:
    """Watch activations against width: of your own model, or for every method of a study's task.

    For your own model, FILE defines make_model(width, seed), which returns an initialised model with base shapes, and
    make_batch(seed), which returns (inputs, targets). Exit code 0 if the check passes at y and x, 1 if it fails, 2 for wrong
    usage or a file that can't be checked, 3 if --max-seeds are too few to tell, 4 if a function of FILE raises.

    Args:
        target: the file, and make_model's name in it
        optimizer: adamw, adamw_schedulefree, radam_schedulefree, sgd_schedulefree, or a function of FILE that takes the model
        loss: a function of FILE: (outputs, targets) → loss (default cross-entropy)
        widths: at least two (default 64,128,256)
        lr: 0.002 or 2^-9 (default 2^-9; 2^-3 for sgd_schedulefree)
        steps: steps to train
        seeds: number of seeds to begin with
        max_seeds: seeds are doubled up to this number while the check is neither passed nor surely failed
        skip: name of a module to leave out, or a pattern like *.router; may be given again
        figure: figure to write: .pdf, .png or .svg
        study: the study file; needs --task, --data and --out
        task: its task
        data: folder of the prepared data set
        out: file to write: slopes (CSV), or for a study activations (Parquet)
    """
    if target is None and study is not None:
        _check_study(study, task, data, out)
    elif target is not None and study is None:
        if figure is not None and figure.suffix not in FIGURE_KINDS:
            raise UserError(f"--figure {figure}: its name must end in {', '.join(FIGURE_KINDS)}", WRONG_USAGE)
        numbers = {"steps": steps, "seeds": seeds, "max-seeds": max_seeds}
        for name, number in numbers.items():
            if number < 1:
                raise UserError(f"--{name} {number}: must be 1 or more", WRONG_USAGE)
        _check_own((target, optimizer, lr, loss), (seeds, max_seeds), figure, out, widths, steps, skip)
    else:
        raise UserError("give either FILE:FUNCTION, for a model of your own, or --study", WRONG_USAGE)


def _check_own(
    asked: tuple[str, str, float | None, str | None],
    seeds: tuple[int, int],
    figure: Path | None,
    out: Path | None,
    widths: tuple[int, ...],
    steps: int,
    skip: tuple[str, ...],
) -> None:
    """Check the model of a file and print what is found; `asked` are the file, the optimizer, its rate and the loss.

    Raises `UserError` with the exit code unless it passes.
    """
    from mufree.coordcheck import until_sure
    from mufree.lab.coordcheck import own_model

    with faults_of_ones_own(unusable=WRONG_USAGE, crashed=CRASHED):
        measure, described = own_model(*asked)
        found = until_sure(partial(measure, widths=widths, steps=steps, skip=skip), *seeds)
    count = f"{found.seeds} seeds" + (f" ({seeds[0]} were too few)" if found.seeds > seeds[0] else "")
    print(f"{asked[0]}, {described}, widths {', '.join(map(str, widths))}, {count}, steps {found.first_step}–{steps}")
    if skip:
        print(f"left out by --skip: {', '.join(skip)}")
    _report(found, asked[0], asked[1], figure, out)
    if found.word != "passed":
        judged = found.table[found.table["step"] >= found.first_step]
        raise UserError(_failures(judged, WORDS[found.word]), EXIT_CODES[found.word])


@contextmanager
def faults_of_ones_own(*, unusable: int, crashed: int) -> Iterator[None]:
    """Within it, what is wrong with a user's file, or raised by its functions, is theirs to mend: these are the exit codes."""
    from mufree.coordcheck import CheckError, UserFunctionError
    from mufree.optim import BaseShapesError

    try:
        yield
    except (CheckError, BaseShapesError, UserFunctionError) as error:
        _show_traceback(error.__cause__)
        raise UserError(str(error), crashed if isinstance(error, UserFunctionError) else unusable) from error


def _show_traceback(error: BaseException | None) -> None:
    """A user's own traceback: it begins where the check called them."""
    if error is None:
        return
    frame = error.__traceback__
    while frame is not None and Path(frame.tb_frame.f_code.co_filename).is_relative_to(PACKAGE):
        frame = frame.tb_next
    traceback.print_exception(type(error), error, frame)


def _check_study(study: Path, task: str | None, data: Path | None, out: Path | None) -> None:
    """Activations of every method of a study's task, as a table of its own."""
    if task is None or data is None or out is None:
        missing = [f"--{name}" for name, value in (("task", task), ("data", data), ("out", out)) if value is None]
        raise UserError(f"--study needs {', '.join(missing)}", 2)
    planned = load_study(study)
    task_of(planned, task)
    from mufree.study.plan import checked

    widths, _ = checked(planned, task)
    if len(set(widths)) < 2:
        raise UserError(
            f"{study}: task {task} has the width {widths[0]} alone, and a coordinate check compares two or more; "
            f"give it some, such as coordinate_check: {{widths: [{widths[0]}, {2 * widths[0]}]}}",
            WRONG_USAGE,
        )
    import pyarrow as pa

    from mufree.lab.coordcheck import check_task
    from mufree.lab.data import load
    from mufree.lab.data.prepared import check_asked_for
    from mufree.study import record

    prepared = load(data)
    check_asked_for(data, prepared.manifest["settings"], task, planned.tasks[task].dataset)
    record.write_table(out, pa.Table.from_pandas(check_task(planned, task, prepared), preserve_index=False))


def _report(found: Outcome, target: str, optimizer: str, figure: Path | None, out: Path | None) -> None:
    """Print the verdict, and write what is asked for."""
    from mufree.analysis import tables
    from mufree.publish import figures
    from mufree.study import files

    shown = ["at", "verdict", "worst_module", "worst_slope", "worst_low", "worst_high"]
    counts = ["n_failed", "n_proven", "n_checked"]
    print(found.verdicts[[*shown, *counts]].to_string(index=False, float_format="{:+.3f}".format))
    if out is not None:
        files.write_text(out, tables.to_csv(found.table))
    if figure is not None:
        drawn = figures.draw_coordcheck(found.table, found.verdicts, title=target, name=optimizer)
        with files.atomic(figure) as path:
            drawn.savefig(path, format=figure.suffix[1:])


def _failures(table: pd.DataFrame, heading: str = WORDS["failed"]) -> str:
    """The modules whose judged slopes in `table` failed, the steepest first, each with its steepest slope."""
    from mufree.study.limits import MAX_SLOPE

    failed = table[table["judged"] & ~table["passed"]]
    steepness = failed["slope"].abs().fillna(math.inf)
    worst = failed.loc[steepness.sort_values(ascending=False).index].drop_duplicates(["module", "quantity"])
    said = worst["slope"].map("goes as width^{:+.2f}".format).where(worst["slope"].notna(), NO_POWER)
    lines = [
        f"  {row.module} ({row.layer}): {row.quantity} {words} at {row.at}, step {row.step}"
        for row, words in zip(worst.head(SHOWN_FAILURES).itertuples(), said, strict=False)
    ]
    more = [f"  and {len(worst) - SHOWN_FAILURES} more"] if len(worst) > SHOWN_FAILURES else []
    return "\n".join([f"{heading}, |slope| is not below {MAX_SLOPE}:", *lines, *more])
