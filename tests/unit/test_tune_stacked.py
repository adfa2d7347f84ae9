"""Trials of a user's model leave side by side what they leave one by one; models for which that can't be go one by one."""

from __future__ import annotations

import itertools
import math
import queue
import random
import runpy
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from mufree.lab.coordcheck.calls import UserFunctionError
from mufree.lab.train import checkpoints
from mufree.lab.train.network import configure_torch
from mufree.lab.tune import Functions, Here, Workers, stacked, training, workers
from mufree.lab.tune.training import Trained
from mufree.study import run_store
from mufree.study.config import OptimizerSettings
from mufree.study.trials import TUNABLE, Trial

BASE, WIDTH, TOKENS, CONTEXT = 8, 16, 11, 6
CLOSE = 1e-4
CPU = torch.device("cpu")

configure_torch(strict=False)


class Mlp(nn.Module):
    """With what an optimizer must leave alone, and two biases whose gradient is one tensor."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(CONTEXT, width), nn.Linear(width, TOKENS, bias=False)
        self.one, self.other = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.unused, self.scale = nn.Linear(3, 3), nn.Parameter(torch.ones(width), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.first(x.float() / TOKENS) * self.scale + (self.one + self.other)))


class Attention(nn.Module):
    """Heads that grow in size with width, so that µP scales their scores by a hook."""

    num_heads = 2

    def __init__(self, width: int) -> None:
        super().__init__()
        # Without biases, of which the keys' has no gradient but rounding, by which Adam steps as far as by any.
        self.embedding, self.qkv = nn.Embedding(TOKENS, width), nn.Linear(width, 3 * width, bias=False)
        self.norm, self.last = nn.LayerNorm(width), nn.Linear(width, TOKENS)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x)
        q, k, v = self.qkv(h).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.last(self.norm(h + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))[:, -1])


class Tied(nn.Module):
    """An embedding that is the output's weight, so that µP divides the output's input by a hook."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(TOKENS, width), nn.Linear(width, width)
        self.last = nn.Linear(width, TOKENS, bias=False)
        self.last.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.hidden(self.embedding(x).mean(1))))


class Normed(nn.Module):
    """BatchNorm, beside a buffer that is no statistic."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(CONTEXT, width, bias=False), nn.Linear(width, TOKENS)
        self.norm = nn.BatchNorm1d(width)
        self.register_buffer("scale", torch.tensor(1 / TOKENS))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.norm(self.first(x * self.scale))))


def batches_of(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        x = torch.randint(TOKENS, (8, CONTEXT), generator=generator)
        yield x, x[:, -1]


def functions_of(make_model: Callable[[int], nn.Module], batches: Any = batches_of, **given: Any) -> Functions:
    return Functions.of(make_model, batches, lambda: list(itertools.islice(batches_of(99), 2)), **given)


def trials_of(
    method: str = "mup_adamw",
    pairs: Any = ((-7, 0), (-5, 1), (-6, 1)),
    steps: int = 30,
    optimizers: Any = ({},),
) -> list[Trial]:
    return [
        Trial(
            name="model",
            functions="digest",
            method_name=method,
            method=TUNABLE[method],
            optimizer=OptimizerSettings(**{"beta2": 0.99, "weight_decay": 0.1} | settings),
            steps=steps,
            width=WIDTH,
            base_width=BASE,
            log2_lr=rate,
            seed=seed,
        )
        for (rate, seed), settings in zip(pairs, itertools.cycle(optimizers), strict=False)
    ]


def trained(functions: Functions, trials: list[Trial], engine: Any, **how: Any) -> dict[Trial, Trained]:
    return {each.trial: each for each in Here(functions, engine=engine, **how).train(trials, lambda *_: None)}


def compare(functions: Functions, trials: list[Trial], engine: str = "stack", close: float = CLOSE) -> None:
    """Trials asked for side by side have the numbers of those one by one, and say by which engine they were trained."""
    one, other = (trained(functions, trials, engine) for engine in ("serial", "stack"))
    for trial in trials:
        mine, theirs = one[trial].row, other[trial].row
        assert (mine["engine"], theirs["engine"]) == ("serial", engine)
        for name, value in mine.items():
            if isinstance(value, float):
                assert theirs[name] == pytest.approx(value, rel=close, nan_ok=True), name
            elif name != "engine":
                assert theirs[name] == value, name
        mine, theirs = (
            {(c["series"], c["layer"], c["step"]): c["value"] for c in found[trial].record.curves.to_pylist()}
            for found in (one, other)
        )
        assert theirs == pytest.approx(mine, rel=100 * close, nan_ok=True)


METHODS = [
    *((Attention, method) for method in ("mup_adamw", "sp_adamw", "mup_schedulefree", "sp_schedulefree")),
    *((Mlp, method) for method in ("mup_adamw", "mup_schedulefree", "mup_adamw_constant_ema")),
    *((Tied, method) for method in ("mup_adamw", "mup_schedulefree")),
]


@pytest.mark.parametrize(("model", "method"), METHODS)
def test_side_by_side_they_leave_what_they_leave_one_by_one(model: type[nn.Module], method: str) -> None:
    compare(functions_of(model), trials_of(method, optimizers=({}, {"beta1": 0.8}, {"beta2": 0.95, "weight_decay": 0})))


@pytest.mark.parametrize("method", ["mup_adamw", "mup_schedulefree"])
def test_batchnorms_statistics_are_each_ones_own(method: str) -> None:
    compare(functions_of(Normed), trials_of(method), close=1e-3)  # it amplifies rounding


def test_one_that_diverges_has_its_own_status_and_harms_nobody() -> None:
    functions = functions_of(Mlp)
    trials = trials_of("mup_adamw", pairs=((-4, 0), (6, 0), (-5, 1), (60, 1)), steps=80)
    compare(functions, trials)
    found = trained(functions, trials, "stack")
    assert [found[trial].row["status"] for trial in trials] == ["ok", "diverged", "ok", "diverged"]
    assert found[trials[3]].row["steps_done"] < 80
    healthy = trained(functions, [trials[0], trials[2]], "stack")
    for trial, each in healthy.items():
        assert found[trial].row["val_loss"] == pytest.approx(each.row["val_loss"], rel=1e-6)


def test_a_loader_that_shuffles_by_the_global_seed_gives_each_seed_its_own_batches() -> None:
    x, y = (torch.cat(part) for part in zip(*itertools.islice(batches_of(5), 6), strict=True))
    compare(
        functions_of(Mlp, lambda seed: DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)), trials_of(steps=20)
    )


def test_a_loss_of_ones_own_may_look_into_the_model() -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        penalty = sum(parameter.square().sum() for parameter in model.parameters())
        return F.cross_entropy(model(x=batch["x"]), batch["y"]) + 1e-3 * penalty + model.first.weight.sum()

    def batches(seed: int) -> Iterator[dict[str, Tensor]]:
        return ({"x": x, "y": y} for x, y in batches_of(seed))

    functions = Functions.of(Mlp, batches, lambda: list(itertools.islice(batches(9), 2)), loss)
    compare(functions, trials_of("mup_schedulefree"))


# --- those that can't ------------------------------------------------------------------------------------------------


class Looks(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2.0 if self.first.weight.sum().item() > 0 else 1.0)


class Drops(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.1, self.training)


class Throws(Mlp):
    """Draws by Python's own numbers, which vmap doesn't see."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1.0 + (0.01 * random.random() if self.training else 0.0))


class Hides(Mlp):
    """Keeps numbers of its seed where they are no buffer."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.hidden = [torch.rand(TOKENS)]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.hidden[0]


class Counts(Mlp):
    """Puts another buffer in the place of its own, which is lost side by side."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + self.training
        return super().forward(x) / self.calls.clamp(1)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Looks, r"RuntimeError: vmap: .*\.item\(\)"),
        (Drops, "RuntimeError: vmap: called random operation"),
        (Throws, "the model or the loss draws random numbers"),
        (Hides, "^the validation loss is .* by itself and .* side by side"),
        (Counts, "the buffer calls is another"),
    ],
)
def test_a_model_that_cant_be_is_trained_one_by_one(
    model: type[nn.Module], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    trials = trials_of(steps=4)
    compare(functions_of(model), trials, "serial", close=0)
    (said,) = caplog.messages
    assert said.startswith(f"trials at width {WIDTH} are trained one by one: ")
    caplog.clear()
    with pytest.raises(stacked.CannotStackError, match=why):
        stacked.check(trials, functions_of(model), CPU)


def test_batches_that_grow_apart_are_noticed_when_they_do(caplog: pytest.LogCaptureFixture) -> None:
    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step, (x, y) in enumerate(batches_of(seed)):
            size = 8 - seed if step > 5 else 8
            yield x[:size], y[:size]

    compare(functions_of(Mlp, batches), trials_of(steps=10), "serial", close=0)
    assert ["stack expects each tensor to be equal size" in said for said in caplog.messages] == [True]


def test_an_error_of_the_users_is_still_theirs() -> None:
    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield from itertools.islice(batches_of(seed), 5)
        raise OSError("gone")

    with pytest.raises(UserFunctionError, match="gone"):
        trained(functions_of(Mlp, batches), trials_of(), "stack")


# --- how they are kept, stopped and dealt out ------------------------------------------------------------------------


def test_memory_that_is_short_halves_them(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    sizes: list[int] = []

    class Short(stacked.Trials):
        def take_step(self) -> None:
            if self.step == 0:
                sizes.append(len(self.runs))
            if len(self.runs) > 2:
                raise MemoryError
            super().take_step()

    monkeypatch.setattr(stacked, "Trials", Short)
    compare(functions_of(Mlp), trials_of(steps=8))
    assert sizes == [3, 2, 2]
    assert "don't fit into memory" in caplog.text


def test_they_are_kept_and_go_on_where_they_were_stopped(tmp_path: Path) -> None:
    functions, trials = functions_of(Attention), trials_of("mup_schedulefree")
    whole = trained(functions, trials, "stack")
    asked = itertools.count()
    with pytest.raises(checkpoints.Interrupted, match="a stack of 3 trials at width 16, kept after step 13 of 30"):
        trained(functions, trials, "stack", store=tmp_path, stop_requested=lambda: next(asked) == 12)
    steps: list[int] = []
    here = Here(functions, tmp_path, engine="stack")
    found = {each.trial: each for each in here.train(trials, lambda _, count: steps.append(count))}
    assert steps == [13] * 3 + [1] * 3 * 17
    for trial in trials:
        kept = run_store.load_run(tmp_path, trial, trial.functions)
        assert kept is not None
        assert kept.row["engine"] == "stack"
        assert kept.row["val_loss"] == found[trial].row["val_loss"] == whole[trial].row["val_loss"]
    assert not list(tmp_path.rglob("*.checkpoint"))


def test_without_a_store_nothing_is_kept() -> None:
    with pytest.raises(checkpoints.Interrupted, match="of which nothing is kept"):
        trained(functions_of(Mlp), trials_of(), "stack", stop_requested=lambda: True)


def test_auto_on_a_cpu_is_one_by_one() -> None:
    trials = trials_of(pairs=[(-5 - place, 0) for place in range(6)], steps=2)
    assert {each.row["engine"] for each in trained(functions_of(Mlp), trials, "auto").values()} == {"serial"}
    assert [training.least(engine, "cuda") for engine in ("auto", "stack", "serial")] == [2, 2, math.inf]


def test_those_of_other_shapes_or_methods_are_trained_apart() -> None:
    radam = TUNABLE["mup_schedulefree"].model_copy(update={"optimizer": "radam_schedulefree"})
    trials = [*trials_of("mup_adamw"), *trials_of("sp_adamw")]
    trials += [trial.model_copy(update={"method": radam}) for trial in trials[:3]]
    assert [len(group) for group in stacked.groups(trials)] == [3, 3, 1, 1, 1]
    wider = [trial.model_copy(update={"width": 32}) for trial in trials[:2]]
    assert [len(group) for group in stacked.groups([*trials[:3], *wider])] == [3, 2]


def test_processes_share_them_out(tmp_path: Path) -> None:
    trials = trials_of(pairs=[(-place, 0) for place in range(7)])
    dealt = {}
    for engine in ("serial", "stack", "auto"):
        with Workers(tmp_path / "file.py", tmp_path, 2, lambda: None, engine) as pool:  # type: ignore[arg-type]
            dealt[engine] = [len(part) for part in pool._parts(trials)]
    assert dealt == {"serial": [1] * 7, "stack": [4, 3], "auto": [1] * 7}


def test_what_a_process_does_with_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    trials, told = trials_of(steps=8), queue.Queue[tuple[str, int]]()
    monkeypatch.setattr(workers, "_here", Here(functions_of(Mlp), engine="stack"))
    monkeypatch.setattr(workers, "_steps", told)
    monkeypatch.setattr(workers, "POLL_SECONDS", -1)
    found = workers._train(trials)
    assert [(name, record.row["engine"]) for name, record in found] == [(trial.id, "stack") for trial in trials]
    steps = Counter[str]()
    while not told.empty():
        name, count = told.get()
        steps[name] += count
    assert steps == {trial.id: 8 for trial in trials}


# --- models of others ------------------------------------------------------------------------------------------------


def test_a_llama_can_be_stacked_also_where_it_gives_its_own_loss() -> None:
    pytest.importorskip("transformers")
    make_model = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "llama.py"))["make_model"]

    def batches(seed: int) -> Iterator[dict[str, Tensor]]:
        return ({"input_ids": x, "labels": x} for x, _ in batches_of(seed))

    functions = Functions.of(make_model, batches, lambda: list(itertools.islice(batches(9), 1)))
    trials = [t.model_copy(update={"width": 64, "base_width": 32}) for t in trials_of("mup_schedulefree", steps=4)]
    compare(functions, trials[:2])


def test_a_vit_can_be_stacked() -> None:
    from torchvision.models import VisionTransformer

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield torch.randn(4, 3, 8, 8, generator=generator), torch.arange(4)

    functions = Functions.of(
        lambda width: VisionTransformer(8, 4, 1, 2, hidden_dim=width, mlp_dim=2 * width, num_classes=4),
        batches,
        lambda: list(itertools.islice(batches(9), 1)),
    )
    compare(functions, trials_of(steps=8)[:2])
