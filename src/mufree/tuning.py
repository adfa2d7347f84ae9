"""Tune a model of one's own on a narrow network, and learn whether the rate can be trusted on a wide one.

    result = tune(make_model, train_batches, valid_batches, base_width=128, check_widths=[256, 512], steps=500)
    print(result.verdict, result.lr)
    result.save(Path("tune"))

First the coordinate check; then the best rate at base width, by bracketing it; then that rate, half and double of it at the
check widths. `docs/tuning.md` tells how the verdict follows, and the command `mufree tune` does it for a file.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from mufree.analysis.coordcheck import Outcome, first_failure
from mufree.analysis.metrics.search import found_optimum, next_points, next_points_around
from mufree.analysis.tuned import Found, Judgement, Result, Tuned, found_in, judge, judge_unchecked, margin_of
from mufree.coordcheck import CheckError, UserFunctionError, coord_check, until_sure
from mufree.lab.train.checkpoints import Interrupted
from mufree.lab.train.network import make_optimizer
from mufree.lab.tune import Functions, Here, Trained, Trainer
from mufree.lab.tune.functions import batch_loss
from mufree.lab.tune.training import served
from mufree.study.config import OptimizerSettings
from mufree.study.machine import Engine
from mufree.study.record import ROW_SCHEMA
from mufree.study.trials import TUNABLE, Settings, Trial

__all__ = ["CheckError", "Settings", "TuneResult", "Tuned", "UserFunctionError", "tune"]

CHECK_SEEDS = (3, 6)
"""Seeds of the coordinate check, at first and at most."""
CHECK_STEPS = 10

log = logging.getLogger(__name__)


class TuneResult(Result):
    """All that was found."""

    @property
    def reasons(self) -> list[str]:
        """Why the verdict is what it is, and for what can't be told what would settle it."""
        from mufree.publish.report import tuned

        return tuned.sentences(self)

    def save(self, folder: Path) -> None:
        """Write tune.html, tune.json and runs.parquet."""
        from mufree.publish.report import tuned

        tuned.write(self, folder)


def tune(
    make_model: Callable[..., nn.Module],
    train_batches: Callable[[int], Any],
    valid_batches: Callable[[], Any],
    *,
    base_width: int,
    check_widths: Sequence[int],
    steps: int,
    loss: Callable[[nn.Module, Any], torch.Tensor] | None = None,
    method: str | Sequence[str] = "mup_schedulefree",
    beta2: float | Sequence[float] = 0.99,
    name: str = "model",
    store: Path | None = None,
    device: str = "cpu",
    engine: Engine = "auto",
    **settings: Any,
) -> TuneResult:
    """Find the best learning rate at `base_width`, and whether it can be kept at `check_widths` and beyond.

    `make_model(width)` or `make_model(width, seed)` gives the model as it is, or one with base shapes. `train_batches(seed)`
    gives batches without end, a list or a data loader; `valid_batches()` those by whose mean loss rates are compared. A batch
    is (inputs, targets) for cross-entropy, a dict for a model that gives its own loss, or what `loss(model, batch)` takes.
    `method` is one of `study.trials.TUNABLE`, or several, `beta2` one value or several to choose from; `settings` are the other
    fields of `Settings`. With a `store`, a folder, finished trials are kept there, and the same call goes on where it was
    stopped. Trials are trained in this process: one after the other (`engine` "serial"), or those of one width side by side
    where the model can be ("stack"); "auto" is the one on a CPU and the other on a GPU.

    Raises `CheckError`, a ValueError, for what can't be tuned, and `UserFunctionError` for what one of the functions raises.
    """
    functions = Functions.of(make_model, train_batches, valid_batches, loss, name)
    asked = Settings(
        base_width=base_width,
        check_widths=tuple(check_widths),
        steps=steps,
        methods=(method,) if isinstance(method, str) else tuple(method),
        beta2s=(beta2,) if isinstance(beta2, (int, float)) else tuple(beta2),
        **settings,
    )
    return run(functions, asked, Here(functions, store, device, engine=engine), store, device)


def run(
    functions: Functions,
    settings: Settings,
    trainer: Trainer,
    store: Path | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> TuneResult:
    """`tune` for functions as they are, with trials trained by `trainer`; `progress` is told how it goes."""
    functions.check_widths(settings.base_width, settings.check_widths)
    tuning = Tuning(functions, settings, trainer, store, torch.device(device), progress or Silent())
    started, stopped = time.monotonic(), ""
    tuned = []
    try:
        for method in settings.methods:
            tuned.append(tuning.of_method(method))
    except Interrupted as error:
        stopped = str(error)
    return TuneResult(functions.name, settings, tuned, tuning.rows(), time.monotonic() - started, stopped)


class Progress(Protocol):
    """Is told how a tuning goes."""

    def expect(self, trials: Sequence[Trial], later: dict[int, int], side_by_side: int) -> None:
        """These trials come next, and after them about so many at each width."""

    def took(self, trial: Trial, steps: int) -> None:
        """A trial has taken so many steps."""

    def finished(self, trained: Trained) -> None:
        """A trial is finished, or was there already."""


class Silent:
    """Says nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


@dataclass
class Tuning:
    """One tuning as it goes: what is asked for, and the trials that there are."""

    functions: Functions
    settings: Settings
    trainer: Trainer
    store: Path | None
    device: torch.device
    progress: Progress
    trained: dict[Trial, Trained] = field(default_factory=dict)
    fingerprint: str = ""
    warned: tuple[str, ...] = ()
    """What `parametrize` could not see to."""

    def __post_init__(self) -> None:
        self.fingerprint = self.functions.fingerprint(self.settings.base_width)
        self.seeds = list(range(self.settings.seeds))
        self.warned = self.functions.warnings_of(max(self.settings.check_widths), self.settings.base_width)
        if any(TUNABLE[method].parametrization == "mup" for method in self.settings.methods):
            for said in self.warned:
                log.warning("%s", said)

    def of_method(self, method: str) -> Tuned:
        """Check, search, check widths. Raises `Interrupted` where it is asked to stop."""
        settings = self.settings
        check = self._coordinate_check(method) if settings.check and TUNABLE[method].parametrization == "mup" else None
        if check is not None and check.word == "failed":
            failure = first_failure(check.table, check.first_step, check.modules)
            return Tuned(method, judge_unchecked(failure), settings.beta2s[0], check)
        start = settings.start
        optima = {}
        for beta2 in settings.beta2s:
            optima[beta2] = found_optimum(self._search(method, beta2, start), self.seeds)
            start = optima[beta2].log2_lr if math.isfinite(optima[beta2].log2_lr) else start
        beta2 = min(optima, key=lambda each: (not math.isfinite(optima[each].loss), optima[each].loss))
        log2_lr = round(optima[beta2].log2_lr, 2)
        if optima[beta2].flag in ("ok", "argmin_only"):
            self._check_widths(method, beta2, log2_lr)
        return Tuned(method, self._judged(method, beta2, log2_lr), beta2, check)

    def _coordinate_check(self, method: str) -> Outcome:
        settings = self.settings
        trial = self._trial(method, settings.beta2s[0], settings.base_width, settings.start, seed=0)
        # One for all widths and seeds: in the methods that are tuned, neither changes what an optimizer is made with.
        make = partial(make_optimizer, trial.model_copy(update={"warmup_fraction": 0.0}))

        def model_of(width: int, seed: int) -> nn.Module:
            if self.trainer.stop_requested():
                raise Interrupted("in the coordinate check")
            model = self.functions.model(width, settings.base_width, seed, "mup").to(self.device)
            for module in model.modules():
                if isinstance(module, _DropoutNd):
                    module.p = 0.0  # its noise is no change of a weight
            return model

        widths = settings.base_width, *settings.check_widths
        log.info("coordinate check of %s at widths %s", method, ", ".join(map(str, widths)))
        measure = partial(
            coord_check,
            model_of,
            make,
            sorted(widths),
            lambda seed: next(self.functions.batches(seed, self.device)),
            model_loss=self.functions.checked_loss,
            steps=CHECK_STEPS,
        )
        try:
            found = until_sure(measure, *CHECK_SEEDS)
        except UserFunctionError as error:
            if isinstance(error.__cause__, Interrupted):
                raise error.__cause__ from None
            raise
        log.info(
            "the coordinate check %s, with %d seeds", {"unsure": "is unsure"}.get(found.word, found.word), found.seeds
        )
        return found

    def _search(self, method: str, beta2: float, start: float) -> Found:
        """All that was found at base width, once the search there is over."""
        base = self.settings.base_width
        while True:
            found = self._found(method, beta2, base)
            points = next_points(found, self.seeds, start)
            if not points:
                return found
            later = {width: 4 * len(self.seeds) for width in self.settings.check_widths}
            later[base] = max(0, 3 * len(self.seeds) + 5 - len(found) - len(points))
            self._train([self._trial(method, beta2, base, x, seed) for x, seed in points], later)

    def _check_widths(self, method: str, beta2: float, log2_lr: float) -> None:
        """Train the rate, half and double of it at all wider widths, and on to where the loss rises again."""
        while trials := [
            self._trial(method, beta2, width, x, seed)
            for width in sorted(self.settings.check_widths, reverse=True)
            for x, seed in next_points_around(self._found(method, beta2, width), self.seeds, log2_lr)
        ]:
            self._train(trials, {})

    def _train(self, trials: Sequence[Trial], later: dict[int, int]) -> None:
        there = served(trials, self.store)
        self.trained |= there
        for each in there.values():
            self.progress.finished(each)
        missing = [trial for trial in trials if trial not in there]
        if missing:
            self.progress.expect(missing, later, self.trainer.side_by_side)
            for each in self.trainer.train(missing, self.progress.took):
                self.trained[each.trial] = each
                self.progress.finished(each)

    def _trial(self, method: str, beta2: float, width: int, log2_lr: float, seed: int) -> Trial:
        settings = self.settings
        return Trial(
            name=self.functions.name,
            functions=self.fingerprint,
            method_name=method,
            method=TUNABLE[method],
            optimizer=OptimizerSettings(beta1=settings.beta1, beta2=beta2, weight_decay=settings.weight_decay),
            steps=settings.steps,
            warmup_fraction=settings.warmup_fraction,
            width=width,
            base_width=settings.base_width,
            log2_lr=float(log2_lr),
            seed=seed,
        )

    def rows(self) -> pd.DataFrame:
        """One row a trial, in the columns of a study's rows; its order depends on the trials alone."""
        rows = pd.DataFrame([each.row for each in self.trained.values()])
        if rows.empty:
            return rows
        columns = [
            *(name for name in ROW_SCHEMA.names if name in rows),
            *sorted(map(str, set(rows) - set(ROW_SCHEMA.names))),
        ]
        return rows[columns].sort_values(["method", "beta2", "width", "log2_lr", "seed"], ignore_index=True)

    def _rows(self, method: str, beta2: float) -> pd.DataFrame:
        """Rows of a method with a β₂."""
        wanted = [
            each.row
            for trial, each in self.trained.items()
            if (trial.method_name, trial.optimizer.beta2) == (method, beta2)
        ]
        return pd.DataFrame(wanted)

    def _found(self, method: str, beta2: float, width: int) -> Found:
        rows = self._rows(method, beta2)
        return found_in(rows, width) if len(rows) else {}

    def _judged(self, method: str, beta2: float, log2_lr: float) -> Judgement:
        rows, settings = self._rows(method, beta2), self.settings
        margin = settings.margin
        if margin is None:
            margin = margin_of(rows, settings.base_width, cross_entropy=self.functions.loss is batch_loss)
        return judge(
            rows,
            base_width=settings.base_width,
            log2_lr=log2_lr,
            margin=margin,
            target_width=settings.target_width,
            warned=self.warned if TUNABLE[method].parametrization == "mup" else (),
        )
