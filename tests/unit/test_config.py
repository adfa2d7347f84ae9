"""A study file is checked as a whole, and what is wrong is said so that it can be mended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from studies import study, with_grid, with_task

from mufree.study.config import METHODS, Study, explain

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
HYPOTHESES = set(EXPERIMENTS.glob("*hypotheses.yaml"))  # claims about studies, and no study


SCHEDULE_FREE = {"parametrization": "sp", "optimizer": "adamw_schedulefree", "schedule": "constant"}


def message(plain: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        Study.model_validate(plain)
    return explain(caught.value)


def test_the_small_study_is_valid() -> None:
    assert Study.model_validate(study()).all_methods == METHODS


@pytest.mark.parametrize("path", sorted(set(EXPERIMENTS.glob("*.yaml")) - HYPOTHESES), ids=lambda path: path.stem)
def test_shipped_studies_are_valid_and_named_after_their_file(path: Path) -> None:
    assert Study.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))).name == path.stem


def test_schema_for_editors_is_up_to_date() -> None:
    shipped = json.loads((EXPERIMENTS / "schema.json").read_text(encoding="utf-8"))
    assert shipped == Study.model_json_schema(), "run: mufree schema > experiments/schema.json"


def test_every_setting_is_described() -> None:
    definitions = Study.model_json_schema()["$defs"]
    undescribed = [
        f"{name}.{key}"
        for name, definition in definitions.items()
        for key, value in definition.get("properties", {}).items()
        if "description" not in value and key != "name"
    ]
    assert not undescribed


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        (study(colour="red"), ["colour", "unknown key"]),
        (
            with_task(training={"steps": 40, "batch_size": 8, "warmup": 3}),
            ["tasks.photo.training.warmup", "unknown key"],
        ),
        (with_task(base_width=64), ["base_width 64", "16, 32"]),
        (with_grid(log2_lrs=[]), ["grids.0.log2_lrs", "at least 1"]),
        (study(grids=[]), ["grids", "at least 1"]),
        (with_grid(log2_lrs=[0.001]), ["grids.0.log2_lrs.0", "0.001"]),
        (
            with_grid(methods=["muon"]),
            ["Unknown method 'muon'", "sp_adamw, sp_schedulefree, mup_adamw, mup_schedulefree"],
        ),
        (with_grid(tasks=["phto"]), ["Unknown task 'phto'", "Known: photo"]),
        (with_grid(seeds=[1, 1]), ["seeds names 1 more than once"]),
        (with_task(training={"steps": 41, "batch_size": 8}), ["41 steps", "20 evaluations"]),
        (with_task(model={"name": "gpt"}), ["gpt", "photo_patches"]),
        (with_task(model={"name": "vit", "head_dim": 32}), ["[16]", "head_dim 32"]),
        (with_task(model={"name": "transformer"}), ["tasks.photo.model", "transformer"]),
        (
            study(methods={"mup_adamw": {"parametrization": "mup", "optimizer": "adamw", "schedule": "constant"}}),
            ["redefines mup_adamw"],
        ),
        (
            study(methods={"x": {"parametrization": "sp", "optimizer": "adamw_schedulefree", "schedule": "cosine"}}),
            ["methods.x", "schedule: constant"],
        ),
        (
            study(methods={"x": {"parametrization": "sp", "optimizer": "sgd_schedulefree", "schedule": "wsd"}}),
            ["methods.x", "schedule: constant, got wsd"],
        ),
        (study(methods={"x": SCHEDULE_FREE | {"average": "ema"}}), ["methods.x", "average: none, got ema"]),
        (
            study(methods={"x": SCHEDULE_FREE | {"parametrization": "mup", "embedding_lr": "times_width"}}),
            ["methods.x", "times_width", "use sp"],
        ),
        (with_grid(horizons=[1, 3]), ["task 'photo'", "horizon 3 (T/3)", "20 evaluations", "use 1, 2, 4, 5, 10"]),
        (with_grid(horizons=[20]), ["horizon 20 (T/20)", "at least 2"]),
        (with_grid(horizons=[0]), ["grids.0.horizons.0", "greater than 0"]),
        (with_grid(horizons=[2, 2]), ["horizons names 2 more than once"]),
        (with_grid(beta1s=[]), ["grids.0.beta1s", "at least 1"]),
        (with_grid(beta1s=[1.0]), ["grids.0.beta1s.0", "1.0"]),
        (with_grid(beta1s=[0.9, 0.9]), ["beta1s names 0.9 more than once"]),
        (with_grid(weight_decays=[-0.1]), ["grids.0.weight_decays.0", "-0.1"]),
        (with_grid(weight_decays=[0, 0.0]), ["weight_decays names 0.0 more than once"]),
        (with_grid(weight_decay_scalings=["decoupled"]), ["weight_decay_scalings.0", "decoupled"]),
        (
            with_grid(methods=["sp_schedulefree"], beta1s=[0, 0.9]),
            ["method 'sp_schedulefree'", "beta1 0", "above 0"],
        ),
        (
            with_task(dataset={"name": "wikitext2", "train_split": "test"}, model={"name": "gpt"}),
            ["must differ", "test, valid, test"],
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(plain: dict[str, Any], words: list[str]) -> None:
    text = message(plain)
    for word in words:
        assert word in text


def test_a_task_without_a_grid_is_an_error() -> None:
    plain = study()
    plain["tasks"]["idle"] = plain["tasks"]["photo"]
    assert "no grid uses task 'idle'" in message(plain)


def test_a_study_may_add_methods_of_its_own() -> None:
    constant = {"parametrization": "mup", "optimizer": "adamw", "schedule": "constant"}
    plain = with_grid(methods=["mup_adamw", "mup_adamw_constant"]) | {"methods": {"mup_adamw_constant": constant}}
    assert Study.model_validate(plain).all_methods["mup_adamw_constant"].schedule == "constant"


def test_methods_of_a_study_may_use_every_factor() -> None:
    more = {
        "sp_radam": SCHEDULE_FREE | {"optimizer": "radam_schedulefree"},
        "sp_sgd_ema": {"parametrization": "sp", "optimizer": "sgd", "schedule": "wsd", "average": "ema"},
        "sp_adamw_embedding": METHODS["sp_adamw"].model_dump() | {"embedding_lr": "times_width"},
    }
    methods = Study.model_validate(study(methods=more)).all_methods
    assert (methods["sp_sgd_ema"].average, methods["sp_adamw_embedding"].embedding_lr) == ("ema", "times_width")


def test_momentum_may_be_zero_without_schedule_free() -> None:
    assert Study.model_validate(with_grid(beta1s=[0, 0.9])).grids[0].beta1s == [0.0, 0.9]
