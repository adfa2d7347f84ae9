"""What a study may say: frozen, closed pydantic models, and nothing else.

A study is a YAML file in `experiments/`. `Study.model_validate` checks all of it; `explain` turns what pydantic says into
sentences for a person. Nothing here touches a file or imports torch.
"""

from __future__ import annotations

import math
import reprlib
from collections import Counter
from itertools import product
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from mufree.study.fields import Beta, Closed, Coefficient, Float, Int, Log2LR, MethodName, Name, NonNegative, Positive
from mufree.study.parts import Dataset, Model

Parametrization = Literal["sp", "mup"]
Precision = Literal["float32", "bfloat16"]
OptimizerName = Literal["adamw", "adamw_schedulefree", "radam_schedulefree", "sgd", "sgd_schedulefree"]
SCHEDULE_FREE = ("adamw_schedulefree", "radam_schedulefree", "sgd_schedulefree")
STACKABLE = ("adamw", "sgd", "adamw_schedulefree", "sgd_schedulefree")
"""Optimizers whose runs can be trained side by side (`updates.UPDATES`; a test compares them)."""
ScheduleName = Literal["cosine", "wsd", "constant"]
Average = Literal["none", "ema"]
EmbeddingLR = Literal["shared", "times_width"]
DecayScaling = Literal["coupled", "independent"]


class Method(Closed):
    """A method is a parametrization, an optimizer and what goes with it; its settings come from the task."""

    parametrization: Parametrization
    """`sp`: standard; `mup`: Maximal Update (Yang et al. 2022)."""
    optimizer: OptimizerName
    """`adamw` or `sgd` (with momentum), or schedule-free (Defazio et al. 2024): `adamw_schedulefree`, `sgd_schedulefree`, and
    `radam_schedulefree`, whose rectification takes the place of the warm-up."""
    schedule: ScheduleName
    """After a linear warm-up: `cosine` to zero, `constant`, or `wsd`: constant, then a decay to zero in the last fifth of the
    steps (Hägele et al. 2024)."""
    average: Average = "none"
    """`ema`: evaluate an exponential mean of the weights, with a time constant of a tenth of the steps. It changes nothing in
    training. Schedule-free optimizers have an average of their own."""
    embedding_lr: EmbeddingLR = "shared"
    """`times_width`: under SP, the learning rate of embedding layers is multiplied by width / base_width (Kalra & Barkeshli
    2026). Embedding layers are those whose fan-in does not grow with width: token and position embeddings, and in image models
    the first layer or the patch embedding."""

    @property
    def schedule_free(self) -> bool:
        """Whether its optimizer averages the weights by itself."""
        return self.optimizer in SCHEDULE_FREE

    @property
    def averages(self) -> bool:
        """Whether it is evaluated at an average of the weights."""
        return self.schedule_free or self.average != "none"

    @model_validator(mode="after")
    def _schedule_free_has_none(self) -> Self:
        if not self.schedule_free:
            return self
        if self.schedule != "constant":
            raise ValueError(f"optimizer {self.optimizer} takes schedule: constant, got {self.schedule}")
        if self.average != "none":
            raise ValueError(
                f"optimizer {self.optimizer} is evaluated at its own average: it takes average: none, got {self.average}"
            )
        return self

    @model_validator(mode="after")
    def _embedding_arm_is_of_sp(self) -> Self:
        if self.embedding_lr != "shared" and self.parametrization != "sp":
            raise ValueError(
                f"embedding_lr: {self.embedding_lr} belongs to parametrization: sp, got {self.parametrization}, which scales "
                "learning rates itself; use sp, or embedding_lr: shared"
            )
        return self


METHODS: dict[str, Method] = {
    "sp_adamw": Method(parametrization="sp", optimizer="adamw", schedule="cosine"),
    "sp_schedulefree": Method(parametrization="sp", optimizer="adamw_schedulefree", schedule="constant"),
    "mup_adamw": Method(parametrization="mup", optimizer="adamw", schedule="cosine"),
    "mup_schedulefree": Method(parametrization="mup", optimizer="adamw_schedulefree", schedule="constant"),
}
"""The four methods of the study. A study file may define more under `methods`."""


class OptimizerSettings(Closed):
    """Settings of an optimizer other than its learning rate."""

    beta1: Beta = 0.9
    """AdamW and SGD: momentum. ScheduleFree: how far y lies from z towards x."""
    beta2: Beta = 0.99
    """Decay of the squared gradient's running mean. SGD has none."""
    eps: Annotated[Float, Field(gt=0)] = 1e-12
    """Adam's ε; small, since gradients shrink with width. SGD has none."""
    weight_decay: Coefficient = 0.0
    """Coefficient λ of the weight decay: a step takes lr × weight_decay off a weight."""
    weight_decay_scaling: DecayScaling = "coupled"
    """What becomes of the weight decay where µP multiplies a learning rate. `coupled`: it is divided by the same factor, so
    that lr × weight_decay is the same at all widths; `independent`: it stays as it is."""


# --- tasks, grids, studies -------------------------------------------------------------------------------------------


class Training(Closed):
    """How long one run trains and how it is watched."""

    steps: Positive
    """Optimizer steps."""
    batch_size: Positive
    """Examples a step."""
    warmup_fraction: Annotated[Float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps in which the learning rate rises linearly, the same for all methods and widths."""
    evaluations: Annotated[Int, Field(ge=2)] = 20
    """Equally spaced evaluations on validation data, the last one after the last step."""
    eval_examples: Positive = 1024
    """Validation examples in each evaluation, always the same ones."""
    batchnorm_batches: Positive = 8
    """Training batches by which BatchNorm's statistics are recomputed before an evaluation."""
    precision: Precision = "float32"
    """`bfloat16`: activations, and the weights as they are applied, in bfloat16; weights, optimizer, normalisations' sums,
    attention's scores and loss in float32. Slower than float32 on a processor that has neither avx512_bf16 nor AMX."""

    @model_validator(mode="after")
    def _evaluations_divide_steps(self) -> Self:
        if self.steps % self.evaluations:
            raise ValueError(
                f"steps must be a multiple of evaluations, so that they are equally spaced: got {self.steps} steps and "
                f"{self.evaluations} evaluations"
            )
        return self


class CoordinateCheck(Closed):
    """Settings of the coordinate check that gates a task."""

    log2_lr: Log2LR = -9
    """log2 of its learning rate."""
    steps: Positive = 10
    """Steps in which activations are watched."""
    seeds: Annotated[list[NonNegative], Field(min_length=1)] = Field(default=[0, 1, 2, 3, 4])
    """Initialisations and batches to average over."""
    batch_size: Positive = 32
    """Examples of the one fixed batch. Keep it small: with many more positions than channels, the incoherent part of an update
    is felt, and a correct network seems to grow with width."""
    widths: Annotated[list[Positive], Field(min_length=2)] | None = None
    """Widths to compare; those of the task's grids if null. At a few dozen channels slopes are not yet what they tend to."""


class Task(Closed):
    """A model on a data set, with all that every method shares."""

    description: str
    """One line, shown in the report."""
    dataset: Dataset
    """What is learnt from."""
    model: Model
    """What learns; its width comes from the grids."""
    base_width: Positive
    """The width at which µP and SP are the same network, and where settings are tuned."""
    training: Training
    """Length and watching of a run."""
    optimizers: dict[OptimizerName, OptimizerSettings] = Field(default={})
    """Settings for each optimizer; those not named take the defaults."""
    coordinate_check: CoordinateCheck = CoordinateCheck()
    """The coordinate check that gates the task."""
    note: str = ""
    """What a reader has to know of the data besides, such as where a copy differs from what was published; shown in the report.
    It belongs to no run's identity."""

    def settings_of(self, optimizer: OptimizerName) -> OptimizerSettings:
        """The task's own settings for an optimizer."""
        return self.optimizers.get(optimizer, OptimizerSettings())

    @model_validator(mode="after")
    def _model_fits_data(self) -> Self:
        if self.dataset.kind != self.model.kind:
            raise ValueError(
                f"model {self.model.name} can't be trained on data set {self.dataset.name}, which is {self.dataset.kind}"
            )
        return self


class Grid(Closed):
    """A full product of runs. A study may have several; runs that two of them name are trained once.

    A run in which every setting is the task's own is a primary one; the other axes make variants of it (`plan.variant`).
    """

    part: NonNegative | None = None
    """Number of the part that it belongs to, of a study that is trained in parts (`mufree lease`). It belongs to no run's
    identity."""
    tasks: Annotated[list[Name], Field(min_length=1)]
    """Tasks, by name."""
    methods: Annotated[list[MethodName], Field(min_length=1)]
    """Methods, by name."""
    widths: Annotated[list[Positive], Field(min_length=1)]
    """Widths; the task's base width must be among those of its grids."""
    log2_lrs: Annotated[list[Log2LR], Field(min_length=1)]
    """Learning rates as integers: -9 is 2⁻⁹."""
    seeds: Annotated[list[NonNegative], Field(min_length=1)]
    """A seed fixes initialisation and data order, the same for every method."""
    horizons: Annotated[list[Positive], Field(min_length=1)] = Field(default=[1])
    """Lengths of runs as divisors of the task's steps: 4 is T/4, with its own warm-up and schedule. Evaluations are as far
    apart as in a full run, which can so be read at a short run's last step."""
    beta1s: Annotated[list[Beta], Field(min_length=1)] | None = None
    """Values of the optimizer's beta1 (SGD: momentum); the task's own if null."""
    weight_decays: Annotated[list[Coefficient], Field(min_length=1)] | None = None
    """Values of the optimizer's weight_decay; the task's own if null."""
    weight_decay_scalings: Annotated[list[DecayScaling], Field(min_length=1)] | None = None
    """Values of the optimizer's weight_decay_scaling; the task's own if null. Where there is no weight decay, and under SP,
    both give the same run, which is trained once."""

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        for field in set(type(self).model_fields) - {"part"}:
            values = getattr(self, field) or []
            twice = sorted(str(value) for value, times in Counter(values).items() if times > 1)
            if twice:
                raise ValueError(f"{field} names {', '.join(twice)} more than once")
        return self


SHORT = reprlib.Repr()
SHORT.maxlevel, SHORT.maxstring = 2, 100
MOST_SHOWN = 20
"""Mistakes that are listed."""
MOST_RUNS = 1_000_000
MOST_NUMBERS = 1e12
"""Weights, or numbers of a batch, that a machine of today might hold."""


class Study(Closed):
    """All that a study file says."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
    """The file's name without `.yaml`; results go to `results/<name>/`."""
    title: str
    """The report's title."""
    tasks: Annotated[dict[Name, Task], Field(min_length=1)]
    """Tasks by name: lower-case letters, digits and hyphens."""
    methods: dict[MethodName, Method] = Field(default={})
    """Methods beyond the four of the study (sp_adamw, sp_schedulefree, mup_adamw, mup_schedulefree)."""
    grids: Annotated[list[Grid], Field(min_length=1)]
    """What is run: the union of these products."""
    seeds_per_sweep: Positive = 1
    """Seeds that one job trains, besides all learning rates. More of them save start-up time where runs take seconds; how
    runs are dealt out to jobs changes no number and no identity."""
    widths_per_sweep: Positive = 1
    """Neighbouring widths that one job trains; as with seeds."""
    minutes_per_job: Positive | None = None
    """Put so many seeds and neighbouring widths into a job that it takes about so long, by the assumed rate of the device, in
    place of seeds_per_sweep and widths_per_sweep. For clusters, where jobs of seconds wait longer than they run."""
    mixed: bool = False
    """Whether runs of one task may have been trained by different engines, or on a CPU and on a GPU. Their numbers differ by
    rounding, or by more where training amplifies it."""

    @property
    def all_methods(self) -> dict[str, Method]:
        """The built-in methods and the study's own, by name."""
        return METHODS | self.methods

    @model_validator(mode="after")
    def _jobs_are_dealt_out_in_one_way(self) -> Self:
        if self.minutes_per_job is not None and (self.seeds_per_sweep, self.widths_per_sweep) != (1, 1):
            raise ValueError(
                "minutes_per_job takes the place of seeds_per_sweep and widths_per_sweep; remove one or the other"
            )
        return self

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        redefined = sorted(set(self.methods) & set(METHODS))
        if redefined:
            raise ValueError(f"methods redefines {', '.join(redefined)}; give the variant a name of its own")
        for grid in self.grids:
            for kind, names, known in (
                ("method", grid.methods, self.all_methods),
                ("task", grid.tasks, self.tasks),
            ):
                for name in names:
                    if name not in known:
                        raise ValueError(f"grids: Unknown {kind} '{name}'. Known: {', '.join(known)}")
        return self

    @model_validator(mode="after")
    def _widths_fit(self) -> Self:
        for name, task in self.tasks.items():
            widths = sorted({w for grid in self.grids if name in grid.tasks for w in grid.widths})
            if not widths:
                raise ValueError(f"no grid uses task '{name}'; remove it or add it to a grid")
            if task.base_width not in widths:
                raise ValueError(
                    f"task '{name}': base_width {task.base_width} is in no width list of its grids "
                    f"({', '.join(map(str, widths))}); transfer is measured from the base width, so train there too"
                )
            head_dim = getattr(task.model, "head_dim", 1)
            odd = [w for w in sorted({*widths, *(task.coordinate_check.widths or [])}) if w % head_dim]
            if odd:
                raise ValueError(f"task '{name}': widths {odd} are not multiples of head_dim {head_dim}")
        return self

    @model_validator(mode="after")
    def _sizes_are_possible(self) -> Self:
        axes = [axis for axis in Grid.model_fields if axis != "part"]
        n_runs = sum(math.prod(len(getattr(grid, axis) or [None]) for axis in axes) for grid in self.grids)
        if n_runs > MOST_RUNS:
            raise ValueError(f"grids plan {n_runs:,} runs, and no study has more than {MOST_RUNS:,}")
        for name, task in self.tasks.items():
            width = max(w for grid in self.grids if name in grid.tasks for w in grid.widths)
            weights = task.model.parameters(width, task.dataset.vocabulary)
            kept = task.model.kept(width, task.dataset.vocabulary) * task.training.batch_size
            if max(weights, kept) > MOST_NUMBERS:
                raise ValueError(
                    f"task '{name}': at width {width} the network has {weights:.1e} weights and a batch {kept:.1e} "
                    f"activations; no machine holds more than {MOST_NUMBERS:.0e}"
                )
        return self

    @model_validator(mode="after")
    def _horizons_fit(self) -> Self:
        for grid in self.grids:
            for name in grid.tasks:
                training = self.tasks[name].training
                fitting = [d for d in range(1, training.evaluations // 2 + 1) if training.evaluations % d == 0]
                odd = [d for d in grid.horizons if d not in fitting]
                if odd:
                    raise ValueError(
                        f"task '{name}': horizon {odd[0]} (T/{odd[0]}) must divide its {training.evaluations} evaluations and "
                        f"leave at least 2 of them; use {', '.join(map(str, fitting))}, or another number of evaluations"
                    )
        return self

    @model_validator(mode="after")
    def _schedule_free_has_momentum(self) -> Self:
        for grid in self.grids:
            for task, name in product(grid.tasks, grid.methods):
                method = self.all_methods[name]
                own = self.tasks[task].settings_of(method.optimizer)
                if method.schedule_free and 0.0 in (grid.beta1s or [own.beta1]):
                    raise ValueError(
                        f"grids: task '{task}', method '{name}': beta1 0 with {method.optimizer}, which finds its average by "
                        "dividing by beta1; use a value above 0"
                    )
        return self


def mistakes(what: str, error: ValidationError) -> str:
    """How many things are wrong with `what`, and each in a line."""
    return f"{what} has {error.error_count()} mistake(s):\n{explain(error)}"


def explain(error: ValidationError) -> str:
    """One line for each thing that is wrong: where it is, what is wrong, and the value."""
    lines = []
    for item in error.errors()[:MOST_SHOWN]:
        where = ".".join(str(part) for part in item["loc"]) or "the study"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown key; remove it or correct its spelling"
        elif not isinstance(item["input"], dict):
            message += f" (got {SHORT.repr(item['input'])})"  # bounded: what aliases nest can be without end
        lines.append(f"  {where}: {message}")
    if (more := error.error_count() - MOST_SHOWN) > 0:
        lines.append(f"  and {more} more")
    return "\n".join(lines)
