"""`mufree tune`: the best rate of a model of one's own, and whether it can be trusted on a wide one."""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from mufree.cli.commands import command
from mufree.cli.coordcheck import faults_of_ones_own
from mufree.cli.inputs import UserError, mendable
from mufree.cli.training import EXIT_STOPPED
from mufree.study.machine import Device, Engine

if TYPE_CHECKING:
    from mufree.lab.tune import Functions, Trained, Trainer
    from mufree.study.trials import Trial
    from mufree.tuning import TuneResult

log = logging.getLogger(__name__)

WRONG_USAGE = 64
UNUSABLE = 65
CRASHED = 70
UNWRITABLE = 74
"""sysexits' EX_USAGE, EX_DATAERR, EX_SOFTWARE, EX_IOERR: 0 to 2 are verdicts."""


def _numbers(kind: type, words: str) -> Any:
    """A converter of `a,b,c`."""

    def convert(_: object, tokens: Sequence[Any]) -> tuple[Any, ...]:
        text = tokens[-1].value  # of an option given twice the last counts
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise ValueError(f"'{text}' must be {words}") from None

    return Parameter(converter=convert, n_tokens=1, show_default=False)


@command("my_model.py --base-width 128 --check-widths 256,512 --steps 500", exit_codes=(WRONG_USAGE, UNWRITABLE))
def tune(
    target: Annotated[Path, Parameter(name="FILE")],
    /,
    *,
    base_width: int,
    check_widths: Annotated[tuple[int, ...], _numbers(int, "widths, as in 256,512")],
    steps: int,
    method: Annotated[tuple[str, ...], _numbers(str, "methods")] = ("mup_schedulefree",),
    seeds: int = 3,
    target_width: int | None = None,
    beta1: float = 0.9,
    beta2: Annotated[tuple[float, ...], _numbers(float, "numbers, as in 0.95,0.99")] = (0.99,),
    weight_decay: float = 0.0,
    margin: float | None = None,
    minutes: float | None = None,
    jobs: int | None = None,
    engine: Engine = "auto",
    device: Device = "cpu",
    unchecked: bool = False,
    out: Path = Path("tune"),
) -> None:
    """Tune the learning rate of your own model at a narrow width, and check that it can be kept at wide ones.

    FILE defines make_model(width) or make_model(width, seed), which returns the model as it is; train_batches(seed), batches
    without end; valid_batches(), those that decide; and loss(model, batch), unless it is cross-entropy of (inputs, targets).
    Stopped at any time, the same command goes on. Exit code 0 if the rate transfers, 1 if it doesn't, 2 if it can't be told; 64
    for wrong usage, 65 for a file that can't be tuned, 70 if one of its functions raises, 74 for a file or disk, 75 if stopped.

    Args:
        target: the file
        base_width: the narrow width, at which the rate is tuned
        check_widths: wider widths, at which the rate, half and double of it are tried
        steps: steps to train
        method: mup_schedulefree, mup_adamw (cosine), mup_adamw_wsd, mup_adamw_constant_ema, or the same with sp_; several to
            compare, of which the first one's verdict counts (default mup_schedulefree)
        seeds: number of seeds
        target_width: the width that the rate is for, if it is wider than those
        beta1: Adam's β₁, or ScheduleFree's
        beta2: Adam's β₂; of several the best at base width is kept (default 0.99)
        weight_decay: coefficient of the weight decay, which µP scales
        margin: a loss that counts as none (default 0.01; 0.3 % of what training gains for a loss of your own)
        minutes: stop after so many
        jobs: trainings side by side on a CPU, one core each (default: as many as there are cores)
        engine: serial trains trials one by one, stack those of one width side by side, where the model can be; auto is serial
            on a CPU, where bits don't depend on what was stopped when, and stack on a GPU
        device: kind of device
        unchecked: go on without the coordinate check
        out: folder to write: tune.html, tune.json, runs.parquet, and what goes on where it stopped
    """
    from mufree.study.trials import Settings

    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs}: must be 1 or more", WRONG_USAGE)
    with mendable(ValueError, exit_code=WRONG_USAGE):
        settings = Settings(
            base_width=base_width,
            check_widths=check_widths,
            steps=steps,
            methods=method,
            seeds=seeds,
            beta1=beta1,
            beta2s=beta2,
            weight_decay=weight_decay,
            margin=margin,
            target_width=target_width,
            check=not unchecked,
        )
    try:
        # What the file prints is no result.
        with redirect_stdout(sys.stderr), faults_of_ones_own(unusable=UNUSABLE, crashed=CRASHED):
            result = _tune(target, settings, out, minutes, jobs, engine, device)
    except KeyboardInterrupt:
        raise UserError(
            f"stopped; what was finished is kept in {out}, and the same command goes on", EXIT_STOPPED
        ) from None
    _say(result, out)


def _tune(
    target: Path, settings: Any, out: Path, minutes: float | None, jobs: int | None, engine: Engine, device: Device
) -> TuneResult:
    from tqdm import tqdm

    from mufree.lab.train.sweeping import asked_to_stop
    from mufree.lab.tune import Functions
    from mufree.tuning import run

    functions = Functions.from_file(target)
    store = out / "store"
    store.mkdir(parents=True, exist_ok=True)  # what can't be written is said before anything is trained
    with asked_to_stop(minutes, None) as stop_requested:
        with (
            _trainer(functions, target, store, device, jobs, engine, stop_requested) as trainer,
            tqdm(total=1.0, disable=None, dynamic_ncols=True, bar_format="{percentage:3.0f}%|{bar}| {desc}") as bar,
        ):
            result = run(functions, settings, trainer, store, device, _Bar(bar))
        result.save(out)
        if result.stopped and (why := stop_requested()) and why.startswith("SIG"):
            raise UserError(
                f"stopped by {why}; what was finished is kept in {out}, and the same command goes on", EXIT_STOPPED
            )
    return result


@contextmanager
def _trainer(
    functions: Functions,
    target: Path,
    store: Path,
    device: Device,
    jobs: int | None,
    engine: Engine,
    stop_requested: Any,
) -> Iterator[Trainer]:
    """Processes side by side on a CPU; on a GPU, or for one job, this process."""
    from mufree.lab.train.network import configure_torch
    from mufree.lab.tune import Here, Workers

    count = 1 if device == "cuda" else jobs or len(os.sched_getaffinity(0))
    if count > 1:
        log.info("trials are trained %d at a time, a core each", count)
        with Workers(target, store, count, stop_requested, engine) as workers:
            yield workers
        return
    configure_torch(strict=False)
    yield Here(functions, store, device, stop_requested, engine)


def _say(result: TuneResult, out: Path) -> None:
    """Print the verdict; raise its exit code, if it isn't 0."""
    from mufree.publish.report.tuned import answer

    print(answer(result)["text"])
    for reason in result.reasons:
        print(f"  {reason}")
    for other in result.tuned[1:]:
        print(f"beside it, {other.method}: {other.judgement.verdict}, rate {2.0**other.judgement.log2_lr:.3g}")
    print(f"{len(result.rows)} trials; see {out / 'tune.html'}")
    if result.exit_code:
        raise SystemExit(result.exit_code)


class _Bar:
    """Tells on stderr how it goes, and about how long it will take: a bar on a terminal, and a line for each trial."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar
        self.ahead: Counter[int] = Counter()
        """Steps that are expected, by width."""
        self.step_seconds: dict[int, float] = {}
        self.side_by_side = 1
        self.count = 0

    def expect(self, trials: Sequence[Trial], later: dict[int, int], side_by_side: int) -> None:
        """These trials come next, and after them about so many at each width."""
        self.side_by_side = side_by_side
        self.ahead = Counter({width: trials[0].steps * count for width, count in later.items()})
        for trial in trials:
            self.ahead[trial.width] += trial.steps

    def took(self, trial: Trial, steps: int) -> None:
        """A trial has taken so many steps."""
        self.ahead[trial.width] = max(0, self.ahead[trial.width] - steps)
        self.bar.update(self._cost(trial.width) * steps)
        self._tell()

    def finished(self, trained: Trained) -> None:
        """A trial is finished, or was there already."""
        self.count += 1
        from mufree.lab.speed import duration

        row = trained.row
        self.step_seconds[row["width"]] = trained.seconds / max(row["steps_done"], 1)
        if not trained.served:
            log.info(
                "%s %s, loss %.4f, in %s; %d trials, %s",
                trained.trial.id,
                row["divergence"] or row["status"],
                row["val_loss"],
                duration(trained.seconds),
                self.count,
                self._left(),
            )
        self._tell()

    def _tell(self) -> None:
        self.bar.total = self.bar.n + sum(self._cost(width) * steps for width, steps in self.ahead.items())
        self.bar.set_description_str(self._left(), refresh=False)

    def _left(self) -> str:
        if not self.step_seconds:
            return "measuring"
        from mufree.lab.speed import duration

        seconds = sum(self._cost(width) * steps for width, steps in self.ahead.items()) / self.side_by_side
        return f"about {duration(seconds)} left"

    def _cost(self, width: int) -> float:
        """Seconds of a step: as they were at this width, or from the nearest, as if they grew with width^1.5."""
        if not self.step_seconds:
            return 1.0
        nearest = min(self.step_seconds, key=lambda other: abs(other - width))
        return float(self.step_seconds[nearest] * (width / nearest) ** 1.5)
