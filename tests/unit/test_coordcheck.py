"""The coordinate check: as a gate on the four models, and its parts on numbers by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import mup
import numpy as np
import pandas as pd
import pytest
import schedulefree
import torch
import toy_data
from scipy.stats import t as student
from studies import with_task
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from mufree.analysis.coordcheck import first_judged_step, outcome, slopes, tables, verdict
from mufree.lab.coordcheck import check_task, coord_check
from mufree.lab.models import GPT, MLP, ResNet, ViT
from mufree.lab.parametrization import parametrize
from mufree.lab.train.evaluate import cross_entropy
from mufree.optim import (
    VARIANTS,
    BaseShapesError,
    MuAdamW,
    MuAdamW_ScheduleFree,
    MuRAdam_ScheduleFree,
    MuScheduleFreeWrapper,
    MuSGD_ScheduleFree,
    available_impls,
)
from mufree.study.config import Study
from mufree.study.limits import FIRST_STEP

MODELS: dict[str, Callable[[int], nn.Module]] = {
    "mlp": lambda width: MLP(width, 4, depth=3),
    "resnet": lambda width: ResNet(width, 4),
    "vit": lambda width: ViT(width, 4, depth=1, head_dim=16, ffn_ratio=2, patch_size=8),
    "gpt": lambda width: GPT(width, 16, depth=1, head_dim=16, ffn_ratio=2, context_length=8),
}
SETTINGS = {"lr": 2**-9, "betas": (0.9, 0.99), "eps": 1e-12}
OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "adamw": lambda model: MuAdamW(model.parameters(), **SETTINGS),
    "schedulefree": lambda model: MuAdamW_ScheduleFree(model.parameters(), **SETTINGS),
    "radam_schedulefree": lambda model: MuRAdam_ScheduleFree(model.parameters(), **SETTINGS),
    "sgd_schedulefree": lambda model: MuSGD_ScheduleFree(model.parameters(), lr=2**-3),
}
CONSTRUCTORS = (MuAdamW_ScheduleFree, MuRAdam_ScheduleFree, MuSGD_ScheduleFree, MuScheduleFreeWrapper)
STEPS = {"radam_schedulefree": 6}  # it stands still for the first four
WIDTHS = {"mlp": (128, 1024), "resnet": (16, 64), "vit": (64, 256), "gpt": (64, 256)}
"""Two do: in a slope over three that are evenly spaced the one between has no weight. The MLP's reach far, since its 3072
inputs move the first layer so much that in narrow ones what a hidden layer does wrong is lost in it."""


def _batch(name: str, seed: int) -> tuple[Tensor, Tensor]:
    """Few examples: updates are then coherent. With more positions than width, finite-width noise tilts the slopes."""
    generator = torch.Generator().manual_seed(seed)
    if name == "gpt":
        return torch.randint(0, 16, (4, 8), generator=generator), torch.randint(0, 16, (4, 8), generator=generator)
    size = 8 if name == "resnet" else 32
    return torch.randn(8, 3, size, size, generator=generator), torch.randint(0, 4, (8,), generator=generator)


def _make(name: str, parametrization: str, width: int, seed: int) -> nn.Module:
    return parametrize(MODELS[name], width, 16 if name == "resnet" else 64, parametrization, seed)


def _check(
    name: str,
    make_model: Callable[[int, int], nn.Module],
    make_optimizer: Callable[[nn.Module], Optimizer],
    *,
    seeds: int = 2,
    steps: int = 3,
) -> pd.DataFrame:
    frame = coord_check(make_model, make_optimizer, WIDTHS[name], partial(_batch, name), steps=steps, seeds=seeds)
    return verdict(slopes(frame), first_step=first_judged_step(frame)).set_index("at")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_mup_passes_at_y_and_x(name: str, optimizer: str) -> None:
    make_model, steps = partial(_make, name, "mup"), STEPS.get(optimizer, 3)
    result = _check(name, make_model, OPTIMIZERS[optimizer], seeds=4, steps=steps)
    assert result["passed"].to_dict() == {"y": True, "x": True}, result


@pytest.mark.parametrize("impl", [name for c in CONSTRUCTORS for name in available_impls(c.__name__)])
def test_every_variant_passes(impl: str) -> None:
    """On one model; the closure variants, which are at y within `step` alone, and the wrappers among them."""
    constructor = {c.__name__: c for c in CONSTRUCTORS}[VARIANTS[impl].constructor]
    settings = SETTINGS if VARIANTS[impl].family == "adam" else {"lr": 2**-3}

    def make_optimizer(model: nn.Module) -> Optimizer:
        return constructor(model.parameters(), impl=getattr(schedulefree, impl), **settings)

    result = _check("gpt", partial(_make, "gpt", "mup"), make_optimizer, seeds=4, steps=6 if "RAdam" in impl else 3)
    assert result["passed"].to_dict() == {"y": True, "x": True}, result


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", MODELS)
def test_sp_fails(name: str, optimizer: str) -> None:
    make_model, steps = partial(_make, name, "sp"), STEPS.get(optimizer, 3)
    result = _check(name, make_model, OPTIMIZERS[optimizer], steps=steps)
    assert result["passed"].to_dict() == {"y": False, "x": False}
    assert (result["worst_slope"] > 0.5).all()


@pytest.mark.parametrize("name", MODELS)
def test_a_hidden_learning_rate_that_is_not_divided_is_caught(name: str) -> None:
    def make_optimizer(model: nn.Module) -> Optimizer:
        return AdamW(model.parameters(), weight_decay=0, **SETTINGS)

    result = _check(name, partial(_make, name, "mup"), make_optimizer)
    assert not result["passed"].any()


@pytest.mark.parametrize("name", MODELS)
def test_a_readout_without_its_multiplier_is_caught(name: str) -> None:
    def make_model(width: int, seed: int) -> nn.Module:
        model = _make(name, "mup", width, seed)
        readout = model.get_submodule("readout")
        assert isinstance(readout, mup.MuReadout)
        readout.output_mult = readout.width_mult()
        return model

    result = _check(name, make_model, OPTIMIZERS["adamw"])
    assert not result["passed"].any()
    assert set(result["worst_module"]) == {"readout"}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_before_base_shapes_is_refused(optimizer: str) -> None:
    with pytest.raises(BaseShapesError, match="set_base_shapes"):
        _check("gpt", lambda width, _: MODELS["gpt"](width), OPTIMIZERS[optimizer])


@pytest.mark.parametrize(("name", "optimizer"), [("gpt", o) for o in OPTIMIZERS] + [("resnet", "schedulefree")])
def test_an_optimizer_before_the_right_base_shapes_is_caught(name: str, optimizer: str) -> None:
    """Nothing can refuse it: the parameters had base shapes, their own, by which every multiplier is 1."""

    def make_optimizer(model: nn.Module) -> Optimizer:
        early = OPTIMIZERS[optimizer](model)
        base = 16 if name == "resnet" else 64
        mup.set_base_shapes(model, MODELS[name](base), delta=MODELS[name](2 * base), rescale_params=False)
        return early

    make_model, steps = partial(_make, name, "sp"), STEPS.get(optimizer, 3)
    result = _check(name, make_model, make_optimizer, steps=steps)
    assert not result["passed"].any()


def _train(model: nn.Module, optimizer: Optimizer, batch: tuple[Tensor, Tensor], steps: int) -> None:
    if hasattr(optimizer, "train"):
        optimizer.train()
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()


@pytest.mark.parametrize("optimizer", ["adamw", "schedulefree"])
def test_measuring_does_not_change_training(optimizer: str) -> None:
    """To the bit: weights, BatchNorm's statistics and, by way of dropout, the random state, though x is visited each step."""
    models: list[nn.Module] = []
    batch = _batch("resnet", 0)

    def make_model(width: int, seed: int) -> nn.Module:
        model = _make("resnet", "mup", width, seed)
        model.get_submodule("readout").register_forward_pre_hook(lambda _module, inputs: F.dropout(inputs[0], 0.1))
        models.append(model)
        return model

    def make_optimizer(model: nn.Module) -> Optimizer:
        torch.manual_seed(0)
        return OPTIMIZERS[optimizer](model)

    coord_check(make_model, make_optimizer, (8, 16), batch, steps=5, seeds=[3])
    measured = models[-1].state_dict()
    alone = make_model(16, 3)
    _train(alone, make_optimizer(alone), batch, steps=5)
    alone(batch[0])  # the last measurement is a forward pass that no step follows
    for name, value in alone.state_dict().items():
        assert torch.equal(value, measured[name]), name


def test_rows_hold_what_the_modules_put_out() -> None:
    """Sizes and changes of a schedule-free MLP at y and at x, against forward passes made by hand."""
    batch = _batch("mlp", 0)
    frame = coord_check(
        partial(_make, "mlp", "mup"), OPTIMIZERS["schedulefree"], (64, 128), batch, steps=3, seeds=[4]
    ).set_index(["width", "step", "module", "at"])
    assert len(frame) == 2 * 4 * 4 * 2
    assert set(frame.index.unique("module")) == {"hidden.0", "hidden.1", "hidden.2", "readout"}

    def outputs(model: nn.Module) -> Tensor:
        return model.get_submodule("hidden.0")(batch[0].flatten(1)).detach()

    model = _make("mlp", "mup", 128, 4)
    optimizer = OPTIMIZERS["schedulefree"](model)
    first = outputs(model)
    _train(model, optimizer, batch, steps=3)
    at_y = outputs(model)
    optimizer.eval()  # type: ignore[attr-defined]
    at_x = outputs(model)
    assert not torch.equal(at_y, at_x)
    for at, h in (("y", at_y), ("x", at_x)):
        row = frame.loc[(128, 3, "hidden.0", at)]
        assert row["seed"] == 4
        assert row["layer"] == "embedding"
        assert row["mean_abs"] == pytest.approx(h.abs().mean().item(), rel=1e-6)
        assert row["mean_abs_change"] == pytest.approx((h - first).abs().mean().item(), rel=1e-6)


def test_relative_change_is_what_the_weights_have_learnt() -> None:
    """‖ΔW·X‖ / ‖W·X‖ at y, with products made by hand, for each kind of layer that has one."""
    kernels: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
        "mlp": ("hidden.0", lambda inputs, weight: inputs.flatten(1) @ weight.T),
        "resnet": ("stem.0", lambda inputs, weight: F.conv2d(inputs, weight, padding=1)),
        "gpt": ("tokens", lambda inputs, weight: weight[inputs]),
    }
    for name, (module, product) in kernels.items():
        batch, widths = _batch(name, 0), WIDTHS[name]
        make = OPTIMIZERS["schedulefree"]
        frame = coord_check(partial(_make, name, "mup"), make, widths, batch, steps=3, seeds=[4]).set_index(
            ["width", "step", "module", "at"]
        )
        model = _make(name, "mup", widths[1], 4)
        first = model.get_submodule(module).weight.detach().clone()
        _train(model, make(model), batch, steps=3)
        weight = model.get_submodule(module).weight.detach()
        by_hand = product(batch[0], weight - first).norm() / product(batch[0], weight).norm()
        assert frame.loc[(widths[1], 3, module, "y"), "relative"] == pytest.approx(by_hand.item(), rel=1e-4)
        assert frame.loc[(widths[1], 0, module, "y"), "relative"] == 0.0
        readout = frame.xs((widths[1], "readout", "x"), level=("width", "module", "at"))["relative"]
        assert math.isnan(readout[0])  # it starts at zero
        assert readout[3] == pytest.approx(1.0)
        others = frame[frame["layer"] == "norm"]["relative"]
        assert others.isna().all()
        assert len(others) > 0 or name == "mlp"


@pytest.mark.parametrize("optimizer", ["adamw", "schedulefree"])
def test_relative_change_of_hidden_layers_grows_with_width_under_sp_alone(optimizer: str) -> None:
    slope = {}
    for parametrization in ("sp", "mup"):
        make_model = partial(_make, "mlp", parametrization)
        frame = coord_check(make_model, OPTIMIZERS[optimizer], WIDTHS["mlp"], partial(_batch, "mlp"), steps=4, seeds=2)
        table = slopes(frame)
        chosen = (table["quantity"] == "relative") & (table["layer"] == "hidden") & (table["step"] == 4)
        slope[parametrization] = table[chosen]["slope"]
    assert (slope["mup"].abs() < 0.1).all()
    assert (slope["sp"] > 0.5).all()


def test_x_is_y_without_schedule_free() -> None:
    frame = coord_check(
        partial(_make, "mlp", "mup"), OPTIMIZERS["adamw"], (64, 128), _batch("mlp", 0), steps=2, seeds=1
    )
    y, x = (frame[frame["at"] == at].drop(columns="at").reset_index(drop=True) for at in ("y", "x"))
    pd.testing.assert_frame_equal(x, y)


def test_closure_variants_are_measured_at_the_same_y_and_x() -> None:
    """They are the same optimizer in another form, whose weights are at x between steps."""
    plain, closure = (
        coord_check(
            partial(_make, "resnet", "mup"),
            lambda model, impl=impl: MuAdamW_ScheduleFree(model.parameters(), impl=impl, **SETTINGS),
            (8, 16),
            _batch("resnet", 0),
            steps=3,
            seeds=1,
        )
        for impl in (schedulefree.AdamWScheduleFree, schedulefree.AdamWScheduleFreeClosure)
    )
    key = ["width", "seed", "step", "module", "layer", "at"]
    pd.testing.assert_frame_equal(
        plain.sort_values(key, ignore_index=True), closure.sort_values(key, ignore_index=True), rtol=1e-3, atol=1e-6
    )
    step = plain[(plain["step"] == 3) & (plain["module"] == "readout")].set_index(["width", "at"])["mean_abs"]
    assert not np.isclose(step[16, "y"], step[16, "x"], rtol=0.05)  # so that mistaking one for the other would show


class _Twice(nn.Module):
    """Calls one layer twice and overwrites what it returned."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(3, width)
        self.layer = nn.Linear(width, width)
        self.readout = mup.MuReadout(width, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.readout(self.layer(self.layer(self.first(inputs)).relu_()).relu_())
        return logits


def test_repeated_calls_and_outputs_overwritten_in_place() -> None:
    batch = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1])
    frame = coord_check(
        lambda width, seed: parametrize(_Twice, width, 8, "mup", seed),
        OPTIMIZERS["adamw"],
        (8, 16),
        batch,
        steps=0,
        seeds=1,
    )
    sizes = frame[(frame["width"] == 16) & (frame["at"] == "y")].set_index("module")
    assert sizes["layer"].to_dict() == {
        "first": "embedding",
        "layer": "hidden",
        "layer#1": "hidden",
        "readout": "readout",
    }
    model = parametrize(_Twice, 16, 8, "mup", 0)
    h = model.get_submodule("layer")(model.get_submodule("first")(batch[0]))
    assert sizes.loc["layer", "mean_abs"] == pytest.approx(h.abs().mean().item(), rel=1e-6)


class _Tied(nn.Module):
    """Weights that are used twice, a module that has children and weights of its own, and a weight of the model itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(width))
        self.table = nn.Embedding(5, width)
        self.attention = nn.MultiheadAttention(width, 2, bias=False, batch_first=True)
        self.readout = mup.MuSharedReadout(self.table.weight, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.table(tokens) + self.start
        logits: Tensor = self.readout(h + self.attention(h, h, h)[0])
        return logits


def test_tied_readouts_and_weights_of_inner_modules_are_judged() -> None:
    tokens = torch.arange(4).repeat(2, 1)
    frame = coord_check(lambda width, _: _tied(width), OPTIMIZERS["adamw"], (8, 16), (tokens, tokens), steps=1, seeds=1)
    layers = frame.set_index("module")["layer"].to_dict()
    assert layers == {"table": "embedding", "attention": "hidden", "readout": "readout"}


def _tied(width: int) -> nn.Module:
    model = _Tied(width)
    mup.set_base_shapes(model, _Tied(8), delta=_Tied(16), rescale_params=False)
    return model


def test_judging_starts_after_the_first_step_that_moves() -> None:
    """RAdam stands still until its variance is known; with β2 = 0.99 the fifth step is the first (Liu et al. 2020: ρ > 4)."""
    frames = {
        name: coord_check(partial(_make, "mlp", "mup"), OPTIMIZERS[name], (64, 128), _batch("mlp", 0), steps=6, seeds=1)
        for name in ("schedulefree", "radam_schedulefree")
    }
    assert first_judged_step(frames["schedulefree"]) == FIRST_STEP == 2
    assert first_judged_step(frames["radam_schedulefree"]) == 6
    still = frames["radam_schedulefree"]
    assert (still[still["step"] < 5]["mean_abs_change"] == 0).all()
    with pytest.raises(ValueError, match="nothing moved in 4 steps"):
        first_judged_step(still[still["step"] < 5])
    # Standing still is no slope of zero: judged from step 2 on, it would fail.
    assert not verdict(slopes(still))["passed"].any()


def _frame(sizes: Callable[[int, int], float], layer: str = "hidden", step: int = 2, seeds: int = 3) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "width": width,
                "seed": seed,
                "step": step,
                "module": f"a_{layer}",
                "layer": layer,
                "at": "y",
                "mean_abs": 1.0,
                "mean_abs_change": sizes(width, seed),
            }
            for width in (32, 64, 256)
            for seed in range(seeds)
        ]
    )


def _change(frame: pd.DataFrame) -> pd.Series:
    table = slopes(frame)
    return table[table["quantity"] == "change"].iloc[0]


def test_slope_of_a_power_law_is_its_exponent() -> None:
    row = _change(_frame(lambda width, seed: (1 + seed) * width**0.25))
    assert row["slope"] == pytest.approx(0.25)
    assert row["slope_low"] == pytest.approx(0.25)
    assert row["slope_high"] == pytest.approx(0.25)
    assert not row["passed"]


def test_interval_is_the_jackknife_over_seeds() -> None:
    exponents = np.array([0.0, 0.05, 0.16])
    row = _change(_frame(lambda width, seed: float(width) ** float(exponents[seed])))
    # Deleting one seed at a time and refitting gives these slopes; the variance is (S − 1)/S · Σ (s_i − s̄)².
    deleted = np.array([np.delete(exponents, i).mean() for i in range(3)])
    se = math.sqrt(2 / 3 * ((deleted - deleted.mean()) ** 2).sum())
    assert row["slope"] == pytest.approx(0.07)
    assert row["slope_low"] == pytest.approx(0.07 - student.ppf(0.975, 2) * se)
    assert row["slope_high"] == pytest.approx(0.07 + student.ppf(0.975, 2) * se)
    assert row["passed"]


def test_one_seed_has_a_slope_and_no_interval() -> None:
    row = _change(_frame(lambda width, seed: width**0.05, seeds=1))
    assert row["slope"] == pytest.approx(0.05)
    assert math.isnan(row["slope_low"])
    assert row["passed"]


def test_a_slope_fails_surely_if_its_whole_interval_lies_beyond_the_bound() -> None:
    def judged(*exponents: float) -> pd.Series:
        frame = _frame(lambda width, seed: float(width) ** exponents[seed], seeds=len(exponents))
        return verdict(slopes(frame)).iloc[0]

    for sign in (-1, 1):
        sure, scattered = judged(sign * 0.24, sign * 0.25, sign * 0.26), judged(sign * 0.05, sign * 0.25, sign * 0.45)
        assert not sure["passed"]
        assert not scattered["passed"]
        assert (sure["n_failed"], sure["n_sure"]) == (1, 1)
        assert (scattered["n_failed"], scattered["n_sure"]) == (1, 0)
        assert scattered["worst_low"] < sure["worst_low"] < sign * 0.25 < sure["worst_high"] < scattered["worst_high"]
    assert judged(0.25)["n_sure"] == 0  # one seed tells nothing of how sure it is


def _many(t: float, count: int) -> pd.DataFrame:
    """`count` hidden modules of which one has a change that is t standard errors beyond 0.1, by 5 seeds; all else is flat."""
    spread = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) / 100  # of standard error √(2.5/5)/100
    exponents = 0.1 + t * math.sqrt(0.5) / 100 + spread
    steep = _frame(lambda width, seed: float(width) ** exponents[seed], seeds=5).assign(module="steep")
    flat = [_frame(lambda width, seed: 1.0, seeds=5).assign(module=f"m{i}") for i in range(count - 1)]
    return slopes(pd.concat([steep, *flat]))


def test_surely_beyond_allows_for_the_number_of_slopes_and_of_looks() -> None:
    """A t of 5 with 4 degrees has a p of 0.0037: enough for the 2 slopes of one module, not for 20, nor for 2 at 4 looks."""
    assert student.sf(5, 4) * 2 < 0.025 < student.sf(5, 4) * 8
    for table, looks, word in (
        (_many(5, 1), 1, "failed"),
        (_many(5, 10), 1, "unsure"),
        (_many(5, 1), 4, "unsure"),
        (_many(50, 10), 4, "failed"),
        (_many(-1, 1), 1, "passed"),
    ):
        result = verdict(table, looks=looks)
        assert result["verdict"].tolist() == [word]
        assert outcome(result) == word
        assert result["n_proven"].tolist() == [int(word == "failed")]
        assert result["n_sure"].tolist() == [
            int(word != "passed")
        ]  # its own interval lies beyond, whatever the others do


def test_the_bound_of_surely_is_where_the_t_test_puts_it() -> None:
    critical = student.isf(0.025 / 2, 4)
    assert verdict(_many(1.001 * critical, 1))["verdict"].item() == "failed"
    assert verdict(_many(0.999 * critical, 1))["verdict"].item() == "unsure"


def test_one_seed_proves_nothing_but_a_slope_that_is_none() -> None:
    steep = _frame(lambda width, seed: float(width), seeds=1)
    assert verdict(slopes(steep))["verdict"].item() == "unsure"
    assert verdict(slopes(_frame(lambda width, seed: 0.0, seeds=1)))["verdict"].item() == "failed"


@pytest.mark.parametrize(
    ("words", "word"),
    [(["passed", "unsure"], "unsure"), (["unsure", "failed"], "failed"), (["passed", "passed"], "passed")],
)
def test_the_word_for_all_places_is_the_worst(words: list[str], word: str) -> None:
    assert outcome(pd.DataFrame({"verdict": words})) == word


def test_size_of_a_readout_is_judged_where_it_starts_at_zero() -> None:
    falling = _frame(lambda width, seed: 1.0, "readout").assign(mean_abs=lambda frame: frame["width"] ** -0.5)
    start = falling.assign(step=0, mean_abs_change=0.0)
    for zero in (True, False):
        table = slopes(pd.concat([start.assign(mean_abs=0.0) if zero else start, falling]))
        result = verdict(table)
        assert result["n_checked"].item() == (2 if zero else 1)
        assert result["verdict"].item() == ("failed" if zero else "passed")
    hidden = slopes(pd.concat([start, falling]).assign(layer="hidden"))
    assert verdict(hidden)["verdict"].item() == "failed"


def test_tables_of_a_study_have_their_columns() -> None:
    """Frozen studies hold them: what only helps a check of one's own to decide is not among them."""
    made = tables([_frame(lambda width, seed: 1.0)])
    quantities = ["quantity", "slope", "slope_low", "slope_high", "passed"]
    assert list(made["coordcheck"].columns) == ["module", "layer", "at", "step", *quantities]
    worst = ["worst_module", "worst_slope", "worst_low", "worst_high"]
    assert list(made["coordcheck_verdict"].columns) == ["at", "passed", *worst, "n_failed", "n_sure", "n_checked"]


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_what_has_no_logarithm_fails_and_does_not_crash(bad: float) -> None:
    frame = _frame(lambda width, seed: bad if (width, seed) == (64, 1) else 1.0)
    row = _change(frame)
    assert math.isnan(row["slope"])
    assert not row["passed"]
    result = verdict(slopes(frame)).iloc[0]
    assert not result["passed"]
    assert math.isnan(result["worst_slope"])
    assert (result["n_failed"], result["n_sure"], result["n_checked"]) == (1, 1, 2)


def test_verdict_judges_activations_and_not_normalisations_or_the_first_step() -> None:
    def steep(width: int, seed: int) -> float:
        return float(width)

    def flat(width: int, seed: int) -> float:
        return 1.0

    good = [_frame(flat, layer) for layer in ("embedding", "hidden", "readout")]
    unjudged = [_frame(steep, "norm"), _frame(steep, "hidden", step=1)]
    result = verdict(slopes(pd.concat(good + unjudged))).iloc[0]
    assert result["passed"]
    assert (result["n_failed"], result["n_checked"]) == (0, 6)
    for layer in ("embedding", "hidden", "readout"):
        bad = verdict(slopes(pd.concat([*good, _frame(steep, layer, step=3)]))).iloc[0]
        assert not bad["passed"]
        assert bad["worst_module"] == f"a_{layer}"
        assert bad["worst_slope"] == pytest.approx(1.0)


def test_relative_change_has_a_slope_and_no_part_in_the_verdict() -> None:
    frame = _frame(lambda width, seed: 1.0)
    steep = frame.assign(relative=frame["width"] ** 0.5)
    none = _frame(lambda width, seed: 1.0, "norm").assign(relative=math.nan)
    table = slopes(pd.concat([steep, steep.assign(step=0), none]))
    relative = table[table["quantity"] == "relative"]
    assert relative[["module", "step"]].to_numpy().tolist() == [["a_hidden", 2]]
    assert relative["slope"].tolist() == pytest.approx([0.5])
    assert not relative["passed"].any()
    result = verdict(table).iloc[0]
    assert result["passed"]
    assert result["n_checked"] == 2


def test_a_relative_change_that_one_seed_lacks_has_no_slope() -> None:
    frame = _frame(lambda width, seed: 1.0)
    table = slopes(frame.assign(relative=frame["seed"].map({0: 1.0, 1: 1.0, 2: math.nan})))
    assert math.isnan(table.set_index("quantity")["slope"]["relative"])


def test_other_columns_are_kept_as_keys() -> None:
    frames = [
        _frame(lambda width, seed, power=power: float(width) ** power).assign(task="t", method=method)
        for method, power in (("mup_adamw", 0.0), ("sp_adamw", 1.0))
    ]
    result = verdict(slopes(pd.concat(frames)))
    assert result[["task", "method", "at", "passed"]].to_numpy().tolist() == [
        ["t", "mup_adamw", "y", True],
        ["t", "sp_adamw", "y", False],
    ]


def test_nothing_to_judge_is_an_error() -> None:
    with pytest.raises(ValueError, match="use more steps"):
        verdict(slopes(_frame(lambda width, seed: 1.0, step=1)))


def test_one_width_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"two or more different ones, got \[64\]"):
        coord_check(partial(_make, "mlp", "mup"), OPTIMIZERS["adamw"], [64], _batch("mlp", 0))


def test_judging_loads_no_torch() -> None:
    code = "import sys, mufree.analysis.coordcheck; print({'torch'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set()"


def test_a_task_is_checked_at_the_rate_of_its_settings() -> None:
    """Adam's first step moves each weight by the rate, so that the readout's first change doubles with it."""
    moved = {}
    for log2_lr in (-8, -7):
        check = {"widths": [16, 32], "batch_size": 4, "seeds": [0], "steps": 1, "log2_lr": log2_lr}
        planned = Study.model_validate(with_task(coordinate_check=check))
        frame = check_task(planned, "photo", toy_data.images())
        first = frame.query("step == 1 and layer == 'readout' and at == 'y' and width == 16")
        moved[log2_lr] = first["mean_abs_change"].item()
    assert moved[-7] == pytest.approx(2 * moved[-8], rel=1e-3)
