"""Identity of a run: what changes it, what doesn't, and that planning is light."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError
from studies import study, with_grid, with_task

from mufree.study import jobs, plan
from mufree.study.config import Study


def runs_of(plain: dict[str, Any]) -> list[plan.Run]:
    return plan.expand(Study.model_validate(plain))


def test_expand_gives_the_full_product_each_once() -> None:
    plain = with_grid(methods=["sp_adamw", "mup_adamw"], seeds=[0, 1, 2])
    plain["grids"].append({**plain["grids"][0], "seeds": [2, 3]})  # seed 2 is in both
    runs = runs_of(plain)
    assert len(runs) == 2 * 2 * 2 * 4
    assert len({run.id for run in runs}) == len(runs)


def test_ids_are_readable_and_end_with_a_digest() -> None:
    run = runs_of(study())[0]
    slug, digest = run.id.rsplit(".", 1)
    assert slug == "photo.mup_adamw.w16.lr-9.s0"
    assert len(digest) == 8
    int(digest, 16)


def test_an_id_does_not_depend_on_what_else_is_planned_or_on_names() -> None:
    few = {run.id for run in runs_of(study())}
    many = {run.id for run in runs_of(with_grid(widths=[16, 32, 64], seeds=[0, 1], log2_lrs=[-10, -9, -8]))}
    assert few < many
    assert {run.id for run in runs_of(study(title="Another", name="other"))} == few


@pytest.mark.parametrize(
    "changed",
    [
        with_task(base_width=32),
        with_task(training={"steps": 80, "batch_size": 8}),
        with_task(training={"steps": 40, "batch_size": 16}),
        with_task(training={"steps": 40, "batch_size": 8, "evaluations": 40}),
        with_task(model={"name": "mlp", "depth": 3}),
        with_task(dataset={"name": "photo_patches", "seed": 1}),
        with_task(optimizers={"adamw": {"weight_decay": 0.1}}),
        with_task(optimizers={"adamw": {"weight_decay": 0.1, "weight_decay_scaling": "independent"}}),
        with_grid(horizons=[2]),
        with_grid(beta1s=[0.95]),
    ],
)
def test_every_setting_that_can_change_a_number_changes_the_id(changed: dict[str, Any]) -> None:
    assert not {run.id for run in runs_of(study())} & {run.id for run in runs_of(changed)}


def test_numerics_is_part_of_the_id() -> None:
    run = runs_of(study())[0]
    assert run.model_copy(update={"numerics": run.numerics + 1}).id != run.id


def test_writing_out_a_default_changes_nothing() -> None:
    explicit = with_task(optimizers={"adamw": {"beta1": 0.9, "beta2": 0.99, "eps": 1e-12, "weight_decay": 0}})
    assert [run.id for run in runs_of(explicit)] == [run.id for run in runs_of(study())]


def test_sweeps_hold_all_rates_of_a_cell_in_order() -> None:
    runs = runs_of(with_grid(log2_lrs=[-7, -9, -8], seeds=[0, 1]))
    sweeps = plan.group_sweeps(runs)
    assert [sweep.id for sweep in sweeps] == [f"photo.mup_adamw.w{w}.s{s}" for w in (16, 32) for s in (0, 1)]
    assert all([run.log2_lr for run in sweep.runs] == [-9, -8, -7] for sweep in sweeps)
    assert sum(len(sweep.runs) for sweep in sweeps) == len(runs)


def test_seeds_may_share_a_sweep_and_stay_the_same_runs() -> None:
    runs = runs_of(with_grid(seeds=[4, 0, 2], log2_lrs=[-8, -9]))
    pairs = plan.group_sweeps(runs, seeds_per_sweep=2)
    assert [(sweep.id, sweep.seeds) for sweep in pairs if sweep.widths == (16,)] == [
        ("photo.mup_adamw.w16.s0_2", (0, 2)),
        ("photo.mup_adamw.w16.s4", (4,)),
    ]
    assert [(run.seed, run.log2_lr) for run in pairs[0].runs] == [(0, -9), (0, -8), (2, -9), (2, -8)]
    assert {run.id for sweep in pairs for run in sweep.runs} == {run.id for run in runs}


def test_widths_may_share_a_sweep_and_stay_the_same_runs() -> None:
    runs = runs_of(with_grid(widths=[64, 16, 32], log2_lrs=[-8, -9]))
    sweeps = plan.group_sweeps(runs, widths_per_sweep=2)
    assert [sweep.id for sweep in sweeps] == ["photo.mup_adamw.w16_32.s0", "photo.mup_adamw.w64.s0"]
    assert [(run.width, run.log2_lr) for run in sweeps[0].runs] == [(16, -9), (16, -8), (32, -9), (32, -8)]
    assert {run.id for sweep in sweeps for run in sweep.runs} == {run.id for run in runs}


def test_a_studys_sweeps_are_as_large_as_it_says() -> None:
    plain = with_grid(widths=[16, 32, 64], seeds=[0, 1]) | {"seeds_per_sweep": 2, "widths_per_sweep": 2}
    checked = Study.model_validate(plain)
    sweeps = jobs.deal(checked, plan.expand(checked), "cpu")
    assert [sweep.id for sweep in sweeps] == ["photo.mup_adamw.w16_32.s0_1", "photo.mup_adamw.w64.s0_1"]


def labels(plain: dict[str, Any]) -> list[str]:
    """The variant of every run at the narrow width, at the first rate and seed, in the order of its sweep."""
    checked = Study.model_validate(plain)
    sweep = plan.group_sweeps(plan.expand(checked))[0]
    first = sweep.runs[0].log2_lr
    return [plan.variant(run, checked.tasks["photo"]) for run in sweep.runs if run.log2_lr == first]


def test_an_axis_left_out_is_the_tasks_own_setting() -> None:
    explicit = with_grid(horizons=[1], beta1s=[0.9], weight_decays=[0], weight_decay_scalings=["coupled"])
    assert [run.id for run in runs_of(explicit)] == [run.id for run in runs_of(study())]
    assert labels(explicit) == [""]


def test_a_horizon_is_a_shorter_run_with_evaluations_as_far_apart() -> None:
    full, half, quarter = runs_of(with_grid(horizons=[1, 2, 4], widths=[16], log2_lrs=[-9]))
    for run, divisor in ((full, 1), (half, 2), (quarter, 4)):
        assert run.training.steps == 40 // divisor
        assert run.training.steps // run.training.evaluations == 2
        assert run.warmup_steps == 4 // divisor
        assert run.training.model_dump(exclude={"steps", "evaluations"}) == full.training.model_dump(
            exclude={"steps", "evaluations"}
        )
    assert plan.training_flops(full) == 4 * plan.training_flops(quarter)


def test_variants_say_what_differs_from_the_task() -> None:
    assert labels(with_grid(horizons=[4, 1, 2])) == ["", "T/2", "T/4"]
    assert labels(with_grid(beta1s=[0.98, 0.9, 0.95])) == ["", "beta1=0.95", "beta1=0.98"]
    assert labels(with_grid(weight_decays=[0, 0.05], weight_decay_scalings=["independent", "coupled"])) == [
        "",
        "weight_decay=0.05",
        "weight_decay=0.05, independent",
    ]
    assert labels(with_grid(horizons=[2], beta1s=[0.5], weight_decays=[0.1])) == ["T/2, beta1=0.5, weight_decay=0.1"]


def test_the_tasks_own_settings_are_primary_whatever_they_are() -> None:
    plain = with_task(optimizers={"adamw": {"beta1": 0.95, "weight_decay": 0.1, "weight_decay_scaling": "independent"}})
    plain["grids"][0] |= {
        "beta1s": [0.9, 0.95],
        "weight_decays": [0, 0.1],
        "weight_decay_scalings": ["coupled", "independent"],
    }
    assert labels(plain) == [
        "beta1=0.9, weight_decay=0",
        "beta1=0.9, coupled",
        "beta1=0.9",
        "weight_decay=0",
        "coupled",
        "",
    ]


@pytest.mark.parametrize(
    ("method", "weight_decays", "count"), [("mup_adamw", [0.1], 2), ("mup_adamw", [0], 1), ("sp_adamw", [0.1], 1)]
)
def test_nothing_is_trained_twice_where_the_scaling_makes_no_difference(
    method: str, weight_decays: list[float], count: int
) -> None:
    both = with_grid(
        methods=[method],
        widths=[16],
        log2_lrs=[-9],
        weight_decays=weight_decays,
        weight_decay_scalings=["coupled", "independent"],
    )
    assert len(runs_of(both)) == count
    alone = {**both, "grids": [both["grids"][0] | {"weight_decay_scalings": ["independent"]}]}
    assert {run.id for run in runs_of(alone)} <= {run.id for run in runs_of(both)}


def test_sweeps_hold_variants_one_after_the_other() -> None:
    plain = with_grid(widths=[16], seeds=[0, 1])
    plain["grids"].append(plain["grids"][0] | {"seeds": [0], "horizons": [2]})
    checked = Study.model_validate(plain)
    both, primary = plan.group_sweeps(plan.expand(checked))
    assert [(plan.variant(run, checked.tasks["photo"]), run.log2_lr) for run in both.runs] == [
        ("", -9),
        ("", -8),
        ("T/2", -9),
        ("T/2", -8),
    ]
    assert len(primary.runs) == 2


def test_schedule_free_radam_has_no_warm_up() -> None:
    method = {"parametrization": "mup", "optimizer": "radam_schedulefree", "schedule": "constant"}
    assert {run.warmup_steps for run in runs_of(with_grid(methods=["radam"]) | {"methods": {"radam": method}})} == {0}


def test_a_note_changes_no_identity() -> None:
    noted, plain = with_task(note="from a copy"), study()
    assert [run.id for run in runs_of(noted)] == [run.id for run in runs_of(plain)]
    first, second = (plan.study_datasets(Study.model_validate(s)) for s in (noted, plain))
    assert first == second


def test_runs_survive_the_way_to_a_job() -> None:
    sweep = plan.group_sweeps(runs_of(study()))[0]
    text = plan.canonical_json(sweep.runs)
    assert plan.runs_from_json(text) == list(sweep.runs)
    assert json.loads(text)[0]["width"] == 16


def test_training_flops_of_a_known_network() -> None:
    run = runs_of(with_task(model={"name": "mlp", "depth": 2}))[0]
    # 6 FLOPs for each of 3072·16 + 16² weights, for 8 examples in 40 steps
    assert plan.training_flops(run) == 6 * (3072 * 16 + 16 * 16) * 8 * 40


def test_warm_up_is_the_same_share_at_every_width() -> None:
    assert {run.warmup_steps for run in runs_of(study())} == {4}


def test_planning_imports_nothing_heavy() -> None:
    code = "import sys, mufree.study.plan, mufree.study.sources; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "pandas", "matplotlib", "pyarrow", "mup", "schedulefree"} & set(loaded)


# --- a part of a study -----------------------------------------------------------------------------------------------


def two_tasks() -> Study:
    plain = study()
    plain["tasks"]["other"] = plain["tasks"]["photo"]
    plain["methods"] = {"mup_sgd": {"parametrization": "mup", "optimizer": "sgd", "schedule": "cosine"}}
    wide = {"widths": [16, 32, 64], "log2_lrs": [-9, -8], "seeds": [0, 1]}
    plain["grids"] = [
        wide | {"tasks": ["photo", "other"], "methods": ["mup_adamw"]},
        wide | {"tasks": ["photo"], "methods": ["mup_sgd"], "horizons": [2]},
        wide | {"tasks": ["photo"], "methods": ["sp_adamw"]},
    ]
    return Study.model_validate(plain)


def test_a_finished_study_is_its_own_part() -> None:
    whole = two_tasks()
    ids = [run.id for run in plan.expand(whole)]
    part = plan.finished_part(whole, ids, "all")
    assert part == whole.model_copy(update={"name": "all"})
    assert [run.id for run in plan.expand(part)] == ids


def test_a_part_has_the_widths_that_are_whole_in_a_grid() -> None:
    whole = two_tasks()
    runs = plan.expand(whole)
    lacking = next(run for run in runs if run.task == "other" and run.width == 32)
    narrow = [run.id for run in runs if run.method_name != "mup_sgd" or run.width == 64]
    part = plan.finished_part(whole, [name for name in narrow if name != lacking.id], "part")
    assert [grid.widths for grid in part.grids] == [[16, 64], [64], [16, 32, 64]]
    assert part.grids[1].horizons == [2]


def test_a_part_leaves_out_tasks_and_methods_that_no_grid_has_finished() -> None:
    whole = two_tasks()
    part = plan.finished_part(whole, [run.id for run in plan.expand(whole) if run.method_name == "sp_adamw"], "part")
    assert (list(part.tasks), list(part.methods), len(part.grids)) == (["photo"], [], 1)


def test_a_part_without_a_base_width_is_no_study() -> None:
    whole = two_tasks()
    with pytest.raises(ValidationError, match="base_width 16 is in no width list"):
        plan.finished_part(whole, [run.id for run in plan.expand(whole) if run.width != 16], "part")
