"""The coordinate check on models that are not the study's: their inputs, outputs, readouts and mistakes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import mup
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mufree.coordcheck import (
    CheckError,
    UserFunctionError,
    coord_check,
    default_loss,
    first_judged_step,
    outcome,
    slopes,
    verdict,
)
from mufree.lab.coordcheck.layers import layer_type
from mufree.optim import MuAdamW, MuAdamW_ScheduleFree

WIDTHS = (64, 256)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return MuAdamW(model.parameters(), lr=2**-9, eps=1e-12)


def schedule_free(model: nn.Module) -> torch.optim.Optimizer:
    return MuAdamW_ScheduleFree(model.parameters(), lr=2**-9, eps=1e-12)


class Net(nn.Module):
    """Two layers and a readout that starts at random unless `zero`; subclasses take and return something else."""

    zero = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(8, width), nn.Linear(width, width), mup.MuReadout(width, 4)

    def logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.b(self.a(x).relu()).relu())
        return logits

    def forward(self, x: Tensor) -> Any:
        return self.logits(x)


class TakesDict(Net):
    def forward(self, batch: dict[str, Tensor]) -> Any:  # type: ignore[override]
        return self.logits(batch["x"])


class TakesKeywords(Net):
    def forward(self, *, x: Tensor, mask: Tensor) -> Any:
        return {"logits": self.logits(x), "mask": mask}


class TakesTwo(Net):
    def forward(self, x: Tensor, mask: Tensor) -> Any:  # type: ignore[override]
        return self.logits(x), mask


class GivesObject(Net):
    def forward(self, x: Tensor) -> Any:
        return SimpleNamespace(logits=self.logits(x), loss=None)


class TellsByKeyword(Net):
    def forward(self, x: Tensor) -> Any:
        return self.out(x=self.b(input=self.a(input=x).relu()).relu())


X, TARGETS = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 4
TOKENS = torch.arange(32).view(4, 8), (torch.arange(32).view(4, 8) * 7 + 3) % 32


def made(kind: Callable[[int], nn.Module], parametrization: str = "mup") -> Callable[[int, int], nn.Module]:
    """Kaiming weights but for a readout, which is zero where its model says so; biases zero."""

    def make_model(width: int, seed: int) -> nn.Module:
        model = kind(width)
        base, delta = (kind(32), kind(64)) if parametrization == "mup" else (None, None)
        mup.set_base_shapes(model, base, delta=delta, rescale_params=False, do_assert=False)
        generator = torch.Generator().manual_seed(seed)
        for name, p in model.named_parameters():
            with torch.no_grad():
                std = 0.1 if "emb" in name else p.shape[-1] ** -0.5 * 2**0.5
                p.copy_(std * torch.randn(p.shape, generator=generator) if p.ndim > 1 else torch.zeros_like(p))
        if getattr(model, "zero", False):
            nn.init.zeros_(model.get_submodule("out").weight)
        return model

    return make_model


def check(make_model: Any, inputs: Any = X, targets: Tensor = TARGETS, **settings: Any) -> pd.DataFrame:
    options = {"steps": 2, "seeds": 1, "widths": WIDTHS, "make_optimizer": schedule_free} | settings
    return coord_check(make_model, batch=(inputs, targets), **options)


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        (TakesDict, {"x": X}),
        (TakesKeywords, {"x": X, "mask": X > 0}),
        (TakesTwo, (X, X > 0)),
        (TakesTwo, [X, X > 0]),
        (GivesObject, X),
        (TellsByKeyword, X),
    ],
)
def test_inputs_and_outputs_of_any_form_measure_the_same(kind: type[Net], inputs: Any) -> None:
    pd.testing.assert_frame_equal(check(made(kind), inputs), check(made(Net)), check_exact=True)


def test_cross_entropy_is_of_any_logits_against_indices() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[0, 1, 2], [3, 4, 0]])
    by_hand = -logits.log_softmax(-1).gather(-1, targets[..., None]).mean()
    assert default_loss(logits, targets).item() == pytest.approx(by_hand.item())
    assert default_loss((logits, None), targets.int()).item() == pytest.approx(by_hand.item())
    assert default_loss(logits[0, 0], targets[0, 0]).item() == pytest.approx(-logits[0, 0].log_softmax(-1)[0].item())
    for output, wrong, words in (
        (logits, targets.float(), "torch.float32"),
        (logits, targets[0], r"\[2, 3, 5\] and torch.int64 \[3\]"),
        ({"hidden": logits}, targets, "dict, which has no logits"),
    ):
        with pytest.raises(CheckError, match=words):
            default_loss(output, wrong)


class Gates(nn.Module):
    """What returns a tuple, a dict, or indices alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm, self.inner, self.pick = nn.LSTM(8, width, batch_first=True), InDict(width), Picks(width)
        self.out = mup.MuReadout(width, 4)

    def forward(self, x: Tensor) -> Any:
        h = self.inner(self.lstm(x[:, None])[0])["h"]
        return self.out(h + self.pick(h).sum(-1, keepdim=True))[:, 0]


class InDict(nn.Linear):
    def __init__(self, width: int) -> None:
        super().__init__(width, width)

    def forward(self, h: Tensor) -> Any:
        return {"indices": h.argmax(-1), "h": super().forward(h)}


class Picks(nn.Linear):
    def __init__(self, width: int) -> None:
        super().__init__(width, 4)

    def forward(self, h: Tensor) -> Tensor:
        return super().forward(h).argmax(-1, keepdim=True)


def test_the_first_floating_tensor_of_an_output_is_recorded() -> None:
    frame = check(made(Gates), steps=0)
    assert set(frame["module"]) == {"lstm", "inner", "out"}  # `pick` returns indices
    model = made(Gates)(256, 0)
    h = model.get_submodule("inner")(model.get_submodule("lstm")(X[:, None])[0])["h"]
    row = frame[(frame["module"] == "inner") & (frame["width"] == 256) & (frame["at"] == "y")]
    assert row["mean_abs"].item() == pytest.approx(h.abs().mean().item(), rel=1e-6)


# --- readouts ---------------------------------------------------------------------------------------------------------


class Plain(Net):
    """A random head of torch's own, which hooks divide by the width multiplier, before and after."""

    zero = False

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.out = nn.Linear(width, 4)
        self.out.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 8 / width,))
        self.out.register_forward_hook(lambda _, inputs, output: output * 4)


class Random(Net):
    zero = False


class Unscaled(Net):
    zero = False

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.out = nn.Linear(width, 4)


@pytest.mark.parametrize("kind", [Plain, Random])
def test_the_change_of_a_random_readout_is_what_it_has_learnt(kind: type[Net]) -> None:
    """(W − W₀)·x and the bias's, times the multipliers 8/256 · 4 of hooks or 1/m of `MuReadout`, weighed by |∂loss/∂h|."""
    frame = check(made(kind), make_optimizer=adamw).set_index(["width", "module", "at", "step"])
    model = made(kind)(256, 0)
    optimizer = adamw(model)
    out: Any = model.get_submodule("out")
    start = out.weight.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(X), TARGETS).backward()
        optimizer.step()
    h = model.get_submodule("b")(model.get_submodule("a")(X).relu()).relu()
    inner, outer = (8 / 256, 4) if kind is Plain else (32 / 256, 1)
    learnt = outer * (inner * h @ (out.weight - start).T + out.bias)
    weight = (model(X).softmax(-1) - F.one_hot(TARGETS, 4)).abs()
    by_hand = ((learnt.abs() * weight).sum() / weight.sum()).item()
    assert frame.loc[(256, "out", "y", 2), "mean_abs_change"] == pytest.approx(by_hand, rel=1e-4)
    assert frame.loc[(256, "out", "y", 0), "mean_abs_change"] == 0


def test_hooks_that_draw_draw_the_same_again() -> None:
    """What is learnt is taken with the same noise, so that noise is no change; and training's random state stays as it was."""

    def make_model(width: int, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = made(Random)(width, seed)
        model.get_submodule("out").register_forward_pre_hook(lambda _, inputs: F.dropout(inputs[0], 0.5))
        return model

    frozen = check(make_model, make_optimizer=lambda model: MuAdamW(model.parameters(), lr=0.0))
    readout = frozen[frozen["module"] == "out"]
    assert (readout["mean_abs_change"] == 0).all()
    assert readout.groupby(["width", "at"])["mean_abs"].nunique().eq(3).all()  # the noise is there, anew at each step


def _judged(make_model: Any, inputs: Any = X, targets: Tensor = TARGETS) -> tuple[pd.DataFrame, pd.DataFrame]:
    frame = check(make_model, inputs, targets, widths=(256, 512, 1024), steps=3, seeds=8)
    table = slopes(frame)
    return table, verdict(table, first_step=first_judged_step(frame))


def test_a_random_readout_passes_by_its_multiplier_and_fails_without() -> None:
    table, right = _judged(made(Random))
    assert outcome(right) == "passed", right
    size = table[(table["module"] == "out") & (table["quantity"] == "size")]
    assert not size["judged"].any()
    assert (size["slope"] < -0.3).all()  # what it would have failed by
    table, wrong = _judged(made(Unscaled))
    assert outcome(wrong) == "failed"
    failed = table[table["judged"] & ~table["passed"] & (table["step"] >= 2)]
    assert {("out", "change")} <= set(zip(failed["module"], failed["quantity"], strict=True))


class Tied(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.emb, self.mid, self.norm = nn.Embedding(32, width), nn.Linear(width, width), nn.LayerNorm(width)
        self.out = mup.MuSharedReadout(self.emb.weight, bias=False)

    def forward(self, tokens: Tensor) -> Any:
        h = self.emb(tokens)
        return self.out(F.layer_norm(h + self.mid(h).relu(), h.shape[-1:]))


def test_a_tied_model_passes_and_fails_without_multipliers() -> None:
    """32 tokens, each seen once: most of what logits learn is by chance, and only its weights keep the mean from falling."""
    assert outcome(_judged(made(Tied), *TOKENS)[1]) == "passed"
    table, sp = _judged(made(Tied, "sp"), *TOKENS)
    assert outcome(sp) == "failed"
    change = table[(table["module"] == "out") & (table["quantity"] == "change")]
    assert (change["slope"] > 0.5).all()


def test_a_readout_of_zeros_is_judged_on_its_size() -> None:
    table = slopes(check(made(Net)))
    assert table[(table["module"] == "out") & (table["quantity"] == "size")]["judged"].all()


class Conv1D(nn.Module):
    """As transformers has it: weight [in, out]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Added(Conv1D):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


class Weight(nn.Module):
    """A parameter that nobody tells what becomes of."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))


@pytest.mark.parametrize(
    ("module", "grows", "layer"),
    [
        (nn.Linear(2, 3), (True, True), "hidden"),
        (nn.Linear(2, 3), (True, False), "embedding"),
        (nn.Linear(2, 3), (False, True), "readout"),
        (nn.Linear(2, 3), (False, False), "embedding"),
        (nn.Embedding(2, 3), (False, True), "embedding"),
        (mup.MuReadout(2, 3), (False, True), "readout"),
        (nn.Conv2d(2, 3, 3), (False, True, False, False), "readout"),
        (nn.Conv2d(2, 3, 3), (True, False, False, False), "embedding"),
        (nn.ConvTranspose1d(2, 3, 3), (True, False, False), "readout"),
        (nn.ConvTranspose1d(2, 3, 3), (False, True, False), "embedding"),
        (Conv1D(), (True, False), "readout"),
        (Conv1D(), (False, True), "embedding"),
        (Conv1D(), (True, True), "hidden"),
        (Added(), (True, False), "embedding"),
        (Weight(2, 3), (True, True), "hidden"),
        (Weight(2, 3), (False, True), "embedding"),
        (nn.Linear(2, 1), (False, True), "readout"),
        (mup.MuReadout(2, 1), (False, True), "readout"),
        (nn.Linear(1, 2), (True, False), "embedding"),
        (nn.LayerNorm(3), (True,), "norm"),
        (Weight(3), (True,), "bias"),
        (Weight(64, 1, 1), (True, False, False), "bias"),
        (Weight(1, 5, 64), (False, False, True), "embedding"),
    ],
)
def test_layer_types_by_use_and_growth(module: nn.Module, grows: tuple[bool, ...], layer: str) -> None:
    assert layer_type(module, "weight", grows) == layer


# --- what is left out, and what can't be checked ----------------------------------------------------------------------


def test_skipped_modules_have_no_rows_and_a_pattern_must_name_some() -> None:
    assert set(check(made(Net), skip=["[ab]"])["module"]) == {"out"}
    with pytest.raises(CheckError, match=r"skip 'head' is the name of no module.*a, b, out"):
        check(made(Net), skip=["head"])
    with pytest.raises(CheckError, match="leaves no module"):
        check(made(Net), skip=["*"])


def test_make_model_of_a_width_alone_is_seeded_before() -> None:
    def of_width(width: int, depth: int = 1) -> nn.Module:
        assert depth == 1  # a seed that is put here would make another model
        return made(Net)(width, int(torch.randint(1000, ())))

    def of_both(width: int, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return made(Net)(width, int(torch.randint(1000, ())))

    def by_name(width: int, depth: int = 1, seed: int = 9) -> nn.Module:
        return of_both(width, seed)

    expected = check(of_both, seeds=2)
    for make_model in (of_width, by_name):
        pd.testing.assert_frame_equal(check(make_model, seeds=2), expected, check_exact=True)


class Overflows(Net):
    def forward(self, x: Tensor) -> Any:
        return self.logits(x) * torch.inf


class Grows(Net):
    """Puts out as many rows as it has been called before: nothing that moves can be told of that."""

    calls = 3

    def forward(self, x: Tensor) -> Any:
        self.calls += self.training and torch.is_grad_enabled()
        self.b(x.new_ones(self.calls, self.b.in_features))
        return self.logits(x)


OPTIONS: dict[str, Any] = {"make_model": made(Net), "make_optimizer": adamw, "widths": WIDTHS, "batch": (X, TARGETS)}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"widths": (0, 64)}, r"widths must be above 0, got \[0, 64\]"),
        ({"widths": (64, -64)}, "above 0"),
        ({"seeds": 0}, "seeds must be one or more"),
        ({"steps": -1}, "steps must not be below 0, got -1"),
        ({"make_model": lambda width, seed: None}, "make_model at width 64, seed 0 returned NoneType"),
        (
            {"make_model": lambda width, depth, seed: None},
            r"take \(width, seed\) or \(width\), not \(width, depth, seed\)",
        ),
        ({"make_model": lambda width, seed: made(Net)(64, seed)}, "does not use its width"),
        ({"make_model": lambda width, seed: Net(width) if width < 99 else nn.Linear(8, width)}, "is not in both"),
        ({"make_model": made(Overflows)}, "width 64, seed 0: the loss is nan before the first step"),
        (
            {"make_model": made(Grows)},
            "width 64, seed 0: b puts out something of another shape at step 1 than at step 0",
        ),
        ({"batch": X}, r"a batch must be \(inputs, targets\), and is Tensor"),
        ({"loss": lambda outputs, targets: outputs}, "a tensor of one number"),
    ],
)
def test_what_can_not_be_checked_is_said(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckError, match=words):
        coord_check(**(OPTIONS | {"seeds": 1} | settings))


def _raise(*_: Any) -> Any:
    raise KeyError("mine")


class Raises(Net):
    def forward(self, x: Tensor) -> Any:
        return _raise()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"make_model": lambda width, seed: _raise()}, "make_model at width 64, seed 0 raised KeyError"),
        ({"make_optimizer": _raise}, "the function that makes the optimizer raised KeyError"),
        ({"batch": lambda seed: _raise()}, "make_batch raised KeyError: 'mine'"),
        ({"loss": lambda outputs, targets: _raise()}, "width 64, seed 0: the loss raised KeyError"),
        ({"make_model": made(Raises)}, "the model's forward raised KeyError"),
    ],
)
def test_whose_function_raised_is_said(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserFunctionError, match=words) as caught:
        coord_check(**(OPTIONS | settings))
    assert isinstance(caught.value.__cause__, KeyError)
