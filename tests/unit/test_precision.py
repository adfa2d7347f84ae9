"""bfloat16 runs: as deterministic as in float32, another identity, float32 weights, the same training but for rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_train import MODELS, WIDTHS, curve, data_for, make_run, same_numbers, trace_of

from mufree.lab.data.batches import train_batches
from mufree.lab.train.network import configure_torch, make_model
from mufree.lab.train.run import start, take_step
from mufree.study.config import METHODS, Training
from mufree.study.plan import Run


def bfloat16_run(model: str, method: str = "mup_schedulefree", **changes: Any) -> Run:
    training = {"precision": "bfloat16"} | changes.pop("training", {})
    return make_run(model, method, training=training, **changes)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", ["sp_adamw", "mup_schedulefree"])
def test_same_run_same_bits_whatever_came_before(model: str, method: str) -> None:
    run = bfloat16_run(model, method)
    first = trace_of(run)
    trace_of(make_run(model, method))  # the same in float32
    trace_of(bfloat16_run(model, method, seed=1, log2_lr=-3))
    assert same_numbers(first, trace_of(run))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimizer", ["adamw", "schedulefree"])
def test_base_width_is_a_negative_control(model: str, optimizer: str) -> None:
    base = WIDTHS[model]
    at_base = [trace_of(bfloat16_run(model, f"{p}_{optimizer}", width=base)) for p in ("sp", "mup")]
    wider = [trace_of(bfloat16_run(model, f"{p}_{optimizer}", width=2 * base)) for p in ("sp", "mup")]
    assert same_numbers(*at_base)
    assert not same_numbers(*wider)


@pytest.mark.parametrize("model", ["gpt", "resnet"])
def test_how_often_one_looks_changes_nothing(model: str) -> None:
    seldom, often = (trace_of(bfloat16_run(model, training={"evaluations": n})) for n in (2, 12))
    assert curve(seldom, "train_loss")[1].tobytes() == curve(often, "train_loss")[1].tobytes()
    assert (seldom.val_loss, seldom.val_loss_y) == (often.val_loss, often.val_loss_y)


def test_precision_is_part_of_a_runs_identity_and_must_be_asked_for() -> None:
    assert Training(steps=4, batch_size=1, evaluations=2).precision == "float32"
    assert make_run("gpt").id != bfloat16_run("gpt").id


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_weights_gradients_and_optimizer_stay_float32(model: str, method: str) -> None:
    configure_torch()
    run = bfloat16_run(model, method)
    session = start(run, data_for(run), torch.device("cpu"))
    seen: list[torch.dtype] = []
    hook = session.optimizer.register_step_pre_hook(
        lambda *_: seen.extend(p.grad.dtype for p in session.model.parameters() if p.grad is not None)
    )
    for _ in range(2):
        take_step(session, watched=True)
    hook.remove()
    tensors = [*session.model.state_dict().values(), *session.optimizer.state.values()]
    flat = [v for t in tensors for v in (t.values() if isinstance(t, dict) else [t]) if torch.is_tensor(v)]
    assert len(seen) == 2 * len(list(session.model.parameters()))
    assert {*seen, *(t.dtype for t in flat if t.is_floating_point())} == {torch.float32}


def formats(run: Run) -> set[torch.dtype]:
    """Number formats that the linear layers and convolutions of a run's model put out, in one forward pass."""
    found: set[torch.dtype] = set()
    data = data_for(run)
    network = make_model(run, data.classes)
    for module in network.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.register_forward_hook(lambda _module, _inputs, output: found.add(output.dtype))
    inputs, _ = next(train_batches(data, batch_size=4, context_length=run.model.context, seed=0))
    network(inputs)
    return found


@pytest.mark.parametrize("model", MODELS)
def test_every_product_is_in_the_precision(model: str) -> None:
    assert formats(make_run(model)) == {torch.float32}
    assert formats(bfloat16_run(model)) == {torch.bfloat16}


@pytest.mark.parametrize("model", MODELS)
def test_it_trains_as_float32_does_but_for_rounding(model: str) -> None:
    # A small rate: at a large one Adam turns rounding into whole steps.
    wide, narrow = trace_of(make_run(model, log2_lr=-9)), trace_of(bfloat16_run(model, log2_lr=-9))
    assert narrow.train_loss != wide.train_loss
    np.testing.assert_allclose(curve(narrow, "train_loss")[1], curve(wide, "train_loss")[1], rtol=0.05)
