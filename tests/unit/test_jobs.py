"""How runs are dealt out to jobs, and what jobs ask for: by hand, and by the networks themselves."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from studies import study, with_grid, with_task

from mufree.lab.train.network import make_model
from mufree.study import jobs, plan, settings
from mufree.study.config import Study
from mufree.study.yaml_files import StudyFileError

CLUSTER = Path(__file__).parents[2] / "experiments/cluster.yaml"
DEVICES = get_args(jobs.Device)
MODELS = [
    {"name": "mlp", "depth": 3},
    {"name": "resnet", "blocks_per_stage": 2},
    {"name": "vit", "depth": 2, "head_dim": 8},
    {"name": "gpt", "depth": 2, "head_dim": 8, "context_length": 16},
]


def planned(plain: dict[str, Any]) -> tuple[Study, list[plan.Run]]:
    checked = Study.model_validate(plain)
    return checked, plan.expand(checked)


def one_run(**task: Any) -> plan.Run:
    plain = with_task(**task)
    plain["grids"][0] |= {"widths": [16], "log2_lrs": [-9]}
    (run,) = planned(plain)[1]
    return run


def of_model(model: dict[str, Any], width: int = 64) -> plan.Run:
    dataset = {"name": "wiki_sample", "vocab_size": 300} if model["name"] == "gpt" else {"name": "photo_patches"}
    return one_run(model=model, dataset=dataset).model_copy(update={"width": width})


# --- time ------------------------------------------------------------------------------------------------------------


def test_a_runs_seconds_by_hand() -> None:
    run = one_run(training={"steps": 40, "batch_size": 8, "evaluations": 20, "eval_examples": 24})
    weights = 3072 * 16 + 16 * 16
    trained, evaluated = 6 * weights * 8 * 40, 2 * weights * 24 * 20
    assert plan.evaluation_flops(run) == pytest.approx(evaluated)
    for device in DEVICES:
        rate = jobs.RATES[device]
        assert jobs.seconds(run, device) == pytest.approx((trained + evaluated) / rate.flops + 40 * rate.step_seconds)


def test_averages_are_evaluated_twice_and_renew_the_statistics_of_batchnorm() -> None:
    def flops(model: dict[str, Any], method: str) -> float:
        plain = with_task(
            model=model, training={"steps": 40, "batch_size": 8, "eval_examples": 24, "batchnorm_batches": 3}
        )
        plain["grids"][0] |= {"widths": [16], "log2_lrs": [-9], "methods": [method]}
        return plan.evaluation_flops(planned(plain)[1][0])

    mlp, resnet = MODELS[:2]
    assert flops(mlp, "mup_schedulefree") == pytest.approx(2 * flops(mlp, "mup_adamw"))
    assert flops(resnet, "mup_schedulefree") == pytest.approx((2 + 3 * 8 / 24) * flops(resnet, "mup_adamw"))


def test_a_job_asks_for_more_time_at_each_attempt_and_never_for_more_than_the_limit() -> None:
    run = one_run()
    hour = [run] * round((3600 - jobs.START_SECONDS) / jobs.seconds(run, "cpu"))
    once = jobs.minutes_to_ask(hour, "cpu")
    assert once == pytest.approx(60 * jobs.MARGIN, abs=1)
    assert [jobs.minutes_to_ask(hour, "cpu", attempt) for attempt in (1, 2, 3)] == [once, 2 * once, 3 * once]
    assert [jobs.minutes_to_ask(hour, "cpu", attempt, limit=150) for attempt in (1, 2, 3)] == [once, 150, 150]
    assert jobs.minutes_to_ask([run], "cpu") == jobs.LEAST_MINUTES
    assert jobs.minutes_to_ask([run], "cpu", limit=5) == 5


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model["name"])
def test_weights_are_counted_as_the_networks_have_them(model: dict[str, Any]) -> None:
    run = of_model(model)
    real = sum(p.numel() for p in make_model(run, 300 if model["name"] == "gpt" else 10).parameters())
    # What is left out is small beside the rest; a stage's first block counts as if all its channels came in.
    assert 0.95 * real < jobs.parameters(run) < 1.25 * real


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model["name"])
@pytest.mark.parametrize("device", DEVICES)
def test_memory_grows_with_width(model: dict[str, Any], device: jobs.Device) -> None:
    asked = [jobs.memory_mb([of_model(model, width)], device) for width in (64, 256, 1024)]
    on_gpu = [jobs.gpu_memory_mb([of_model(model, width)]) for width in (64, 256, 1024)]
    assert all(narrow < wide for narrow, wide in [*pairwise(asked), *pairwise(on_gpu)])
    assert asked[0] > jobs.HOST_MB[device]
    assert on_gpu[0] > jobs.CONTEXT_MB


def test_a_sweeps_memory_is_that_of_its_largest_run() -> None:
    narrow, wide = (of_model(MODELS[3], width) for width in (64, 512))
    for device in DEVICES:
        assert jobs.memory_mb([narrow, wide, narrow], device) == jobs.memory_mb([wide], device)


def test_memory_is_asked_for_in_hundreds_and_stops_growing() -> None:
    run = of_model(MODELS[3], 512)
    needed = jobs.memory_mb([run], "cpu")
    asked = [jobs.memory_to_ask([run], "cpu", attempt) for attempt in (1, 2, 3, 4, 9)]
    assert asked == [100 * math.ceil(times * needed / 100) for times in (1, 2, 3, 3, 3)]


# --- dealing out -----------------------------------------------------------------------------------------------------


def packed(target: float, **grid: Any) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Widths and seeds of each sweep, where a run takes as many seconds as it is wide."""
    runs = planned(with_grid(log2_lrs=[-9], **grid))[1]
    sweeps = plan.pack_sweeps(runs, lambda run: float(run.width), target)
    assert sorted(run.id for sweep in sweeps for run in sweep.runs) == sorted(run.id for run in runs)
    return [(sweep.widths, sweep.seeds) for sweep in sweeps]


def test_short_sweeps_are_packed_until_the_target_is_reached() -> None:
    widths, seeds = [16, 32, 64, 128], [0, 1]
    every = [((width,), (seed,)) for width in widths for seed in seeds]
    assert packed(1, widths=widths, seeds=seeds) == every
    assert packed(64, widths=widths, seeds=seeds) == [
        ((16,), (0, 1)),
        ((32,), (0, 1)),
        *every[4:],
    ]
    assert packed(96, widths=widths, seeds=seeds)[:1] == [((16, 32), (0, 1))]
    assert packed(480, widths=widths, seeds=seeds) == [((16, 32, 64, 128), (0, 1))]


def test_a_width_that_takes_too_long_is_cut_by_seeds_evenly() -> None:
    assert packed(100, widths=[16, 32], seeds=[0, 1, 2, 3, 4, 5, 6]) == [
        ((16,), (0, 1, 2, 3)),
        ((16,), (4, 5, 6)),
        ((32,), (0, 1, 2)),
        ((32,), (3, 4, 5)),
        ((32,), (6,)),
    ]


def test_how_runs_are_dealt_out_changes_no_run_and_no_identity() -> None:
    plain = with_grid(seeds=[0, 1, 2], widths=[16, 32, 64], methods=["sp_adamw", "mup_adamw"])
    checked, runs = planned(plain)
    ids = {run.id for run in runs}
    for minutes in (1, 30, 1000):
        _, same = planned(plain | {"minutes_per_job": minutes})
        assert {run.id for run in same} == ids
    alone = jobs.deal(checked, runs, "cpu")
    together = jobs.deal(Study.model_validate(plain | {"minutes_per_job": 1000}), runs, "cpu")
    assert (len(alone), len(together)) == (18, 2)
    assert {run.id for sweep in together for run in sweep.runs} == ids


def test_minutes_per_job_stands_in_place_of_numbers_of_seeds_and_widths() -> None:
    for other in ("seeds_per_sweep", "widths_per_sweep"):
        with pytest.raises(ValueError, match="takes the place of"):
            Study.model_validate(study(minutes_per_job=30, **{other: 2}))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_shards_part_the_sweeps_about_evenly(device: jobs.Device, count: int) -> None:
    checked, runs = planned(with_grid(widths=[16, 64, 256], seeds=[0, 1, 2], methods=["sp_adamw", "mup_adamw"]))
    sweeps = jobs.deal(checked, runs, device)
    shards = [jobs.shard(sweeps, device, number, count) for number in range(1, count + 1)]
    assert sorted(sweep.id for shard in shards for sweep in shard) == sorted(sweep.id for sweep in sweeps)
    loads = [sum(jobs.job_seconds(sweep.runs, device) for sweep in shard) for shard in shards]
    assert max(loads) - min(loads) <= max(jobs.job_seconds(sweep.runs, device) for sweep in sweeps)


def test_the_first_tasks_sweeps_come_first_and_longer_ones_before_shorter() -> None:
    plain = with_grid(widths=[16, 64], methods=["sp_adamw", "mup_adamw"])
    plain["tasks"] = {"second": plain["tasks"]["photo"], **plain["tasks"]}
    plain["grids"][0]["tasks"] = ["photo", "second"]
    checked, runs = planned(plain)
    sweeps = jobs.deal(checked, runs, "cpu")
    found = jobs.priorities(checked, sweeps, by_value=False)
    ordered = sorted(sweeps, key=lambda sweep: -found[sweep.id])
    assert [(sweep.task, sweep.widths) for sweep in ordered] == [
        (task, widths) for task in ("second", "photo") for widths in ((64,), (64,), (16,), (16,))
    ]
    by_value = jobs.priorities(checked, sweeps, by_value=True)
    assert sorted(sweeps, key=lambda sweep: -by_value[sweep.id]) == jobs.most_valuable_first(checked, sweeps)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"stduy": "quickstart"}, ["stduy: unknown key", "Known: study, data_dir, device"]),
        ({"device": "gpu"}, ["device: Input should be 'cpu' or 'cuda' (got 'gpu')"]),
        ({"engine": "fast"}, ["engine: Input should be 'serial', 'stack', 'compiled' or 'auto' (got 'fast')"]),
        ({"precision": "fp16"}, ["precision: Input should be 'float32' or 'bfloat16' (got 'fp16')"]),
        ({"max_minutes": "1d"}, ["max_minutes: Input should be a valid integer (got '1d')"]),
        ({"max_minutes": 0}, ["max_minutes: Input should be greater than 0 (got 0)"]),
        ({"minutes": float("inf")}, ["minutes: Input should be a finite number (got inf)"]),
        ({"minutes": -1}, ["minutes: Input should be greater than 0 (got -1)"]),
        *(({"shard": s}, ["shard: give a part and their number, such as 1/4"]) for s in ("0/2", "3/2", "1/0", "a", 2)),
    ],
)
def test_a_mistake_in_the_workflows_settings_is_said(asked: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(StudyFileError) as caught:
        settings.read(asked)
    assert "--config has 1 mistake(s)" in str(caught.value)
    assert all(part in str(caught.value) for part in words)


def test_the_workflows_settings_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUFREE_DATA_DIR", "/staged")
    read = settings.read({"shard": "2/4", "minutes": 9})
    assert (read.shard, read.minutes, read.data_dir, read.study) == ((2, 4), 9, "/staged", "quickstart")
    assert settings.read({"data_dir": "here"}).data_dir == "here"


# --- the coordinate check, the cluster study -------------------------------------------------------------------------


def test_the_coordinate_check_is_its_distinct_methods_at_all_widths_and_seeds() -> None:
    plain = with_task(coordinate_check={"seeds": [0, 1], "steps": 3, "batch_size": 4})
    plain["grids"][0] |= {"methods": ["mup_adamw", "wsd", "mup_schedulefree"]}
    plain["methods"] = {"wsd": {"parametrization": "mup", "optimizer": "adamw", "schedule": "wsd"}}
    runs = jobs.coordinate_check_runs(planned(plain)[0], "photo")
    assert [(run.method_name, run.width, run.seed) for run in runs] == [
        (method, width, seed) for method in ("mup_adamw", "mup_schedulefree") for width in (16, 32) for seed in (0, 1)
    ]
    assert {(run.training.steps, run.training.batch_size) for run in runs} == {(6, 4)}
    assert {plan.evaluation_flops(run) for run in runs} == {0}


def test_the_cluster_studys_short_sweeps_make_jobs_of_the_chosen_length() -> None:
    checked, runs = planned(yaml.safe_load(CLUSTER.read_text(encoding="utf-8")))
    assert checked.minutes_per_job is not None
    target = 60 * checked.minutes_per_job
    sweeps = jobs.deal(checked, runs, "cuda")
    assert len(sweeps) < len(plan.group_sweeps(runs))
    for sweep in sweeps:
        cell = len(sweep.widths) == len(sweep.seeds) == 1
        assert cell or jobs.job_seconds(sweep.runs, "cuda") <= target + jobs.START_SECONDS
    assert {run.id for sweep in sweeps for run in sweep.runs} == {run.id for run in runs}


def test_what_all_jobs_ask_for_is_their_sum() -> None:
    checked, runs = planned(with_grid(seeds=[0, 1, 2]))
    sweeps = jobs.deal(checked, runs, "cuda")
    said = jobs.describe(sweeps, "cuda")
    assert f"{len(sweeps)} jobs ask for {len(sweeps)} GPUs" in said
    gigabytes = sum(jobs.memory_to_ask(s.runs, "cuda") for s in sweeps) / 1000
    minutes = sum(jobs.minutes_to_ask(s.runs, "cuda") for s in sweeps)
    assert f"{gigabytes:,.1f} GB of memory in total" in said
    assert f"{minutes / 60:,.1f} h in total" in said
    assert str(jobs.RATES["cuda"]) in said
    assert "no GPU" in jobs.describe(sweeps, "cpu")
    assert "No sweep" in jobs.describe([], "cpu")


def test_it_imports_nothing_heavy() -> None:
    code = "import sys, mufree.study.jobs; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "pandas", "matplotlib", "pyarrow", "mup", "schedulefree"} & set(loaded)
