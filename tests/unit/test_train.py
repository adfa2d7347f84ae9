"""One run: deterministic, independent of how it is watched, equal to a plain loop, and honest about divergence."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import textwrap
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toy_data
from schedulefree import AdamWScheduleFree, RAdamScheduleFree, SGDScheduleFree

from mufree.lab.data import Prepared
from mufree.lab.data.batches import eval_batches, train_batches
from mufree.lab.train.evaluate import Objective
from mufree.lab.train.network import make_model, make_optimizer
from mufree.lab.train.run import Course, begin, finish, train
from mufree.lab.train.watch import Trace, TrainLoss
from mufree.study.config import METHODS, Method, OptimizerSettings
from mufree.study.plan import NUMERICS, Run

MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp"},
    "resnet": {"name": "resnet"},
    "vit": {"name": "vit", "depth": 1, "head_dim": 4, "patch_size": 8},
    "gpt": {"name": "gpt", "depth": 1, "head_dim": 4, "context_length": 16},
}
WIDTHS = {"mlp": 8, "resnet": 4, "vit": 8, "gpt": 8}


MORE_METHODS = {
    f"{parametrization}_{name}": Method(parametrization=parametrization, **factors)
    for parametrization in ("sp", "mup")
    for name, factors in {
        "adamw_wsd": {"optimizer": "adamw", "schedule": "wsd"},
        "adamw_ema": {"optimizer": "adamw", "schedule": "constant", "average": "ema"},
        "radam_schedulefree": {"optimizer": "radam_schedulefree", "schedule": "constant"},
        "sgd": {"optimizer": "sgd", "schedule": "cosine"},
        "sgd_schedulefree": {"optimizer": "sgd_schedulefree", "schedule": "constant"},
    }.items()
} | {
    "sp_adamw_embedding": Method(
        parametrization="sp", optimizer="adamw", schedule="cosine", embedding_lr="times_width"
    ),
    "sp_schedulefree_embedding": Method(
        parametrization="sp", optimizer="adamw_schedulefree", schedule="constant", embedding_lr="times_width"
    ),
}
ALL_METHODS = METHODS | MORE_METHODS


def make_run(model: str = "mlp", method: str = "mup_schedulefree", **changes: Any) -> Run:
    """A tiny run at twice the base width."""
    base = WIDTHS[model]
    training = {"steps": 12, "batch_size": 8, "evaluations": 4, "eval_examples": 32, "batchnorm_batches": 1}
    return Run.model_validate(
        {
            "task": "toy",
            "dataset": {"name": "wiki_sample"} if model == "gpt" else {"name": "photo_patches"},
            "model": MODELS[model],
            "method_name": method,
            "method": ALL_METHODS[method].model_dump() | changes.pop("factors", {}),
            "optimizer": OptimizerSettings().model_dump(),
            "training": training | changes.pop("training", {}),
            "width": 2 * base,
            "base_width": base,
            "log2_lr": -6,
            "seed": 0,
        }
        | changes
    )


def data_for(run: Run) -> Prepared:
    return toy_data.text() if run.model.name == "gpt" else toy_data.images()


def trace_of(run: Run) -> Trace:
    return train(run, data_for(run))


def curve(trace: Trace, name: str, layer: str = "") -> tuple[np.ndarray, np.ndarray]:
    (series,) = [s for s in trace.curves if (s.name, s.layer) == (name, layer)]
    return series.steps, series.values


def same_numbers(first: Trace, second: Trace) -> bool:
    return repr(first.row()) == repr(second.row()) and all(
        (a.name, a.layer, a.steps.tobytes(), a.values.tobytes())
        == (b.name, b.layer, b.steps.tobytes(), b.values.tobytes())
        for a, b in zip(first.curves, second.curves, strict=True)
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", ["sp_adamw", "mup_schedulefree"])
def test_same_run_same_bits_whatever_came_before(model: str, method: str) -> None:
    run = make_run(model, method)
    first = trace_of(run)
    trace_of(make_run(model, method, seed=1, log2_lr=-3))
    torch.rand(7)  # global random numbers must not matter
    assert same_numbers(first, trace_of(run))


def test_seed_rate_and_width_change_the_numbers() -> None:
    first = trace_of(make_run())
    for change in ({"seed": 1}, {"log2_lr": -5}, {"width": 32}):
        assert trace_of(make_run(**change)).train_loss != first.train_loss


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "optimizer",
    ["adamw", "schedulefree", "adamw_wsd", "adamw_ema", "radam_schedulefree", "sgd", "sgd_schedulefree"],
)
def test_base_width_is_a_negative_control(model: str, optimizer: str) -> None:
    base = WIDTHS[model]
    at_base = [trace_of(make_run(model, f"{p}_{optimizer}", width=base)) for p in ("sp", "mup")]
    wider = [trace_of(make_run(model, f"{p}_{optimizer}", width=2 * base)) for p in ("sp", "mup")]
    assert same_numbers(*at_base)
    assert not same_numbers(*wider)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", ["sp_adamw", "sp_schedulefree"])
def test_scaled_embeddings_are_plain_sp_at_base_width_and_nowhere_else(model: str, method: str) -> None:
    def pair(width: int) -> list[Trace]:
        return [trace_of(make_run(model, name, width=width)) for name in (method, f"{method}_embedding")]

    assert same_numbers(*pair(WIDTHS[model]))
    assert not same_numbers(*pair(2 * WIDTHS[model]))


def test_rates_of_scaled_embeddings_by_hand() -> None:
    run = make_run("gpt", "sp_adamw_embedding", width=32)  # four times the base width
    model = make_model(run, 16)
    name_of = {id(p): name for name, p in model.named_parameters()}
    embeddings, others = make_optimizer(run, model).param_groups
    assert {name_of[id(p)] for p in embeddings["params"]} == {"tokens.weight", "positions.weight"}
    assert len(embeddings["params"]) + len(others["params"]) == len(name_of)
    assert (embeddings["lr"], others["lr"]) == (4 * run.lr, run.lr)


@pytest.mark.parametrize("scaling", ["coupled", "independent"])
@pytest.mark.parametrize(
    "method", ["mup_adamw", "mup_schedulefree", "mup_radam_schedulefree", "mup_sgd", "mup_sgd_schedulefree"]
)
def test_scaling_of_weight_decay_by_hand(method: str, scaling: str) -> None:
    run = make_run(method=method, optimizer={"weight_decay": 0.1, "weight_decay_scaling": scaling}, width=32)
    groups = make_optimizer(run, make_model(run, 4)).param_groups
    assert {group["lr"] / run.lr for group in groups} == ({1.0, 4.0} if "sgd" in method else {1.0, 0.25})
    for group in groups:
        product = group["lr"] * group["weight_decay"] if scaling == "coupled" else group["weight_decay"] * run.lr
        assert product == pytest.approx(0.1 * run.lr)


@pytest.mark.parametrize("model", ["mlp", "resnet"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "wsd"])
def test_an_average_changes_nothing_but_where_one_looks(model: str, schedule: str) -> None:
    plain, averaged = (
        trace_of(make_run(model, "mup_adamw", factors={"schedule": schedule, "average": average}))
        for average in ("none", "ema")
    )
    for name in ("train_loss", "grad_norm"):
        assert curve(plain, name)[1].tobytes() == curve(averaged, name)[1].tobytes()
    assert curve(averaged, "val_loss_y")[1].tobytes() == curve(plain, "val_loss")[1].tobytes()
    assert averaged.val_loss_y == plain.val_loss
    assert averaged.val_loss != averaged.val_loss_y
    assert curve(averaged, "val_loss")[1][-1] == averaged.val_loss


def test_the_average_is_that_of_a_plain_loop() -> None:
    run = make_run(method="sp_adamw_ema", training={"steps": 40})  # a time constant of 4 steps
    data = data_for(run)
    model = make_model(run, data.classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.lr, betas=(0.9, 0.99), eps=1e-12, weight_decay=0)
    average = [torch.zeros_like(p, dtype=torch.float64) for p in model.parameters()]
    batches = islice(train_batches(data, batch_size=8, context_length=None, seed=run.seed), 40)
    for step, (inputs, targets) in enumerate(batches, start=1):
        optimizer.param_groups[0]["lr"] = run.lr * min(1.0, step / run.warmup_steps)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        share = max(1 / step, 1 / 4)
        average = [
            (1 - share) * a + share * p.detach().double() for a, p in zip(average, model.parameters(), strict=True)
        ]
    with torch.no_grad():
        for p, value in zip(model.parameters(), average, strict=True):
            p.copy_(value)
        ((inputs, targets),) = eval_batches(data, "valid", examples=32, batch_size=32, context_length=None)
        by_hand = F.cross_entropy(model(inputs), targets).item()
    assert trace_of(run).val_loss == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("model", ["mlp", "resnet"])
@pytest.mark.parametrize("method", ["mup_adamw", "mup_schedulefree", "mup_adamw_ema"])
def test_how_often_one_looks_changes_nothing(model: str, method: str) -> None:
    seldom, often = (trace_of(make_run(model, method, training={"evaluations": n})) for n in (2, 12))
    assert curve(seldom, "train_loss")[1].tobytes() == curve(often, "train_loss")[1].tobytes()
    assert (seldom.val_loss, seldom.val_loss_y) == (often.val_loss, often.val_loss_y)


def test_curves_are_complete() -> None:
    run = make_run()
    trace = trace_of(run)
    for name in ("train_loss", "grad_norm"):
        assert curve(trace, name)[0].tolist() == list(range(1, 13))
    for name in ("val_loss", "val_loss_y"):
        assert curve(trace, name)[0].tolist() == [0, 3, 6, 9, 12]
    for name in ("grad_rms", "update_rms", "weight_rms"):
        for layer in ("embedding", "hidden", "readout", "bias"):
            steps, values = curve(trace, name, layer)
            assert steps.tolist() == [3, 6, 9, 12]
            assert np.isfinite(values).all()
    assert trace.initial_loss == pytest.approx(math.log(4), rel=1e-6)  # a readout of zeros
    assert trace.val_loss == curve(trace, "val_loss")[1][-1]
    assert trace.status == "ok"
    assert trace.train_loss < trace.initial_loss
    assert 0.0 <= trace.test_accuracy <= 1.0


def test_gradient_norm_is_that_of_the_layers_before_the_step() -> None:
    trace = trace_of(make_run())
    model = make_model(make_run(), 4)
    sizes: dict[str, int] = {}
    for name, layer in vars(model)["layer_types"].items():
        sizes[layer] = sizes.get(layer, 0) + model.get_parameter(name).numel()
    norms = curve(trace, "grad_norm")[1][2::3]
    squares = sum(sizes[layer] * curve(trace, "grad_rms", layer)[1] ** 2 for layer in sizes)
    np.testing.assert_allclose(norms, np.sqrt(squares), rtol=1e-5)


@pytest.mark.parametrize("method", ["sp_adamw", "sp_schedulefree", "sp_radam_schedulefree"])
def test_what_adam_divides_by_is_recorded_after_the_last_step(method: str) -> None:
    run = make_run(method=method, factors={"schedule": "constant"})  # and one step of warm-up, which changes no rate
    data = data_for(run)
    model = make_model(run, data.classes)
    make = {"sp_adamw": torch.optim.AdamW, "sp_schedulefree": AdamWScheduleFree}.get(method, RAdamScheduleFree)
    optimizer = make(model.parameters(), lr=run.lr, betas=(0.9, 0.99), eps=1e-12, weight_decay=0)
    if method != "sp_adamw":
        optimizer.train()
    squares = {name: np.zeros(p.shape) for name, p in model.named_parameters()}
    for inputs, targets in islice(train_batches(data, batch_size=8, context_length=None, seed=run.seed), 12):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        for name, p in model.named_parameters():
            squares[name] = 0.99 * squares[name] + 0.01 * p.grad.numpy() ** 2
        optimizer.step()
    roots: dict[str, list[np.ndarray]] = {}
    for name, layer in vars(model)["layer_types"].items():
        roots.setdefault(layer, []).append(np.sqrt(squares[name] / (1 - 0.99**12)).ravel())
    trace = trace_of(run)
    for layer in ("embedding", "hidden", "readout", "bias"):
        steps, values = curve(trace, "sqrt_v", layer)
        assert steps.tolist() == [12]
        moved = np.concatenate(roots[layer])
        assert values[0] == pytest.approx(np.median(moved[moved > 0]), rel=1e-3)


def test_without_adam_or_a_last_step_there_is_nothing_to_divide_by() -> None:
    stopped = make_run(method="sp_adamw", log2_lr=127, training={"steps": 40, "evaluations": 2})
    for run in (make_run(method="mup_sgd"), make_run(method="mup_sgd_schedulefree"), stopped):
        assert "sqrt_v" not in {series.name for series in trace_of(run).curves}


def test_schedule_free_is_judged_at_x_and_at_y() -> None:
    schedule_free, adamw = trace_of(make_run()), trace_of(make_run(method="mup_adamw"))
    assert schedule_free.val_loss != schedule_free.val_loss_y
    assert adamw.val_loss == adamw.val_loss_y


def plain_loop(run: Run, data: Prepared) -> tuple[list[float], float]:
    """What a person would write for the SP methods: torch's optimizers with LambdaLR, or the schedulefree package as it is."""
    model = make_model(run, data.classes)
    parameters, momentum = model.parameters(), run.optimizer.beta1
    settings = {"lr": run.lr, "weight_decay": 0.1}
    adam = settings | {"betas": (momentum, run.optimizer.beta2), "eps": 1e-12}
    steps, warmup = run.training.steps, run.warmup_steps

    def factor(k: int) -> float:
        if k < warmup:
            return (k + 1) / warmup
        if run.method.schedule == "wsd":
            past = (k - round(0.8 * steps)) / round(0.2 * steps)
            return 1 - math.sqrt(max(0.0, past))
        return (1 + math.cos(math.pi * (k - warmup) / (steps - warmup))) / 2

    optimizer: Any = {
        "adamw": lambda: torch.optim.AdamW(parameters, **adam),
        "sgd": lambda: torch.optim.SGD(parameters, momentum=momentum, **settings),
        "adamw_schedulefree": lambda: AdamWScheduleFree(parameters, warmup_steps=warmup, **adam),
        "radam_schedulefree": lambda: RAdamScheduleFree(parameters, **adam),
        "sgd_schedulefree": lambda: SGDScheduleFree(parameters, momentum=momentum, warmup_steps=warmup, **settings),
    }[run.method.optimizer]()
    schedule_free = run.method.optimizer.endswith("schedulefree")
    if schedule_free:
        optimizer.train()
    else:
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    losses = []
    for inputs, targets in islice(train_batches(data, batch_size=8, context_length=None, seed=run.seed), steps):
        loss = F.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not schedule_free:
            scheduler.step()
        losses.append(loss.item())
    if schedule_free:
        optimizer.eval()
    ((inputs, targets),) = eval_batches(data, "valid", examples=32, batch_size=32, context_length=None)
    with torch.no_grad():
        return losses, F.cross_entropy(model(inputs), targets).item()


@pytest.mark.parametrize(
    "method", ["sp_adamw", "sp_schedulefree", "sp_adamw_wsd", "sp_radam_schedulefree", "sp_sgd", "sp_sgd_schedulefree"]
)
def test_training_equals_a_plain_loop(method: str) -> None:
    run = make_run(method=method, optimizer={"weight_decay": 0.1}, training={"steps": 20, "warmup_fraction": 0.25})
    losses, val_loss = plain_loop(run, data_for(run))
    trace = trace_of(run)
    np.testing.assert_allclose(curve(trace, "train_loss")[1], losses, rtol=1e-4)
    assert trace.val_loss == pytest.approx(val_loss, rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_blows_up_is_a_diverged_row(method: str) -> None:
    # Finite for AdamW, whose steps are bounded: it is called diverged because it ends above where it started.
    trace = trace_of(make_run(method=method, log2_lr=10))
    assert trace.status == "diverged"
    assert trace.divergence in ("nonfinite", "above_start")


def test_a_run_stops_at_the_first_number_that_is_not_finite() -> None:
    trace = trace_of(make_run(method="sp_adamw", log2_lr=127, training={"steps": 40, "evaluations": 2}))
    assert (trace.status, trace.divergence) == ("diverged", "nonfinite")
    assert trace.steps_done < 40
    assert math.isnan(trace.val_loss)
    assert math.isnan(trace.test_loss)


def judged(losses: list[float], initial: float = 2.0) -> TrainLoss:
    mean = TrainLoss(initial=initial, steps=100)
    for loss in losses:
        mean.update(loss)
    return mean


def test_divergence_is_judged_as_metrics_define_it() -> None:
    assert judged([2.0] * 5 + [1.0] * 100).divergence() is None
    assert judged([2.0] * 100).divergence() == "above_start"
    # (c): 0.5 nats above its minimum, or a tenth of the way down where that is more
    assert judged([1.0] * 100 + [1.45] * 200).divergence() is None
    assert judged([1.0] * 100 + [1.55] * 200).divergence() == "rebound"
    assert judged([1.0] * 100 + [1.85] * 200, initial=10.0).divergence() is None
    assert judged([1.0] * 100 + [1.95] * 200, initial=10.0).divergence() == "rebound"


def test_fifty_steps_beyond_twice_the_start_are_hopeless() -> None:
    high = judged([4.1] * 48)
    assert [high.take(loss, 1.0) for loss in (4.1, 4.1, -1e3)] == [None, "above_start", None]


def test_the_mean_of_a_constant_is_the_constant_from_the_first_step() -> None:
    assert judged([1.5]).mean == pytest.approx(1.5)
    assert judged([1.5] * 30).mean == pytest.approx(1.5)


def test_a_sweep_imports_nothing_that_it_does_not_use() -> None:
    code = """
        import sys
        from test_train import make_run, trace_of
        trace_of(make_run())
        trace_of(make_run(method="sp_adamw"))
        print(*sys.modules)
    """
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (here, here.parent / "helpers")))}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, check=True
    )
    heavy = {"torch._dynamo", "torch._inductor", "torchvision", "matplotlib", "seaborn", "scipy", "pandas", "pyarrow"}
    assert not heavy & set(done.stdout.split())


GOLDEN = Path(__file__).with_name("golden.json")


def golden_losses() -> dict[str, float]:
    """Final validation losses of a tiny run of each model and method."""
    return {
        # A small rate: at a large one, Adam turns the rounding of another processor into whole steps.
        f"{model}.{method}": trace_of(make_run(model, method, log2_lr=-9)).val_loss
        for model in MODELS
        for method in (ALL_METHODS if model in ("mlp", "gpt") else METHODS)
    }


def test_numbers_change_only_with_numerics() -> None:
    """Golden losses keep the run store honest: change the numbers on purpose, raise NUMERICS, and run this file."""
    golden = json.loads(GOLDEN.read_text())
    assert golden["numerics"] == NUMERICS, "run: PYTHONPATH=tests/helpers python tests/unit/test_train.py"
    assert golden_losses() == pytest.approx(golden["val_loss"], rel=2e-5)


def test_a_model_of_ones_own_is_trained_as_by_a_plain_loop() -> None:
    def made() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        return model, torch.optim.SGD(model.parameters(), lr=0.5)

    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(20, 4, 5, generator=generator)
    batches = list(zip(inputs, (inputs.sum(-1) > 0).long(), strict=True))
    model, optimizer = made()
    course = Course(
        name="mine",
        steps=10,
        evaluations=2,
        batches=lambda skip: iter(batches[skip:10]),
        valid=batches[10:],
        objective=Objective(),
        test=lambda: batches[10:],
        rate_factor=lambda step: 1 - step / 10,
    )
    trace = finish(begin(model, optimizer, course))

    mine, sgd = made()
    losses = []
    for step, (x, y) in enumerate(batches[:10]):
        sgd.param_groups[0]["lr"] = 0.5 * (1 - step / 10)
        loss = F.cross_entropy(mine(x), y)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(float(loss.detach()))
    assert curve(trace, "train_loss")[1].tolist() == losses
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), mine.parameters(), strict=True))
    assert (trace.status, trace.steps_done) == ("ok", 10)
    assert trace.test_loss == trace.val_loss


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({"numerics": NUMERICS, "val_loss": golden_losses()}, indent=2) + "\n")
