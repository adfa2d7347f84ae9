"""Who gets which GPU; on any machine, since claims are files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from mufree.lab.train.gpus import NoGpuFree, choose, claimed, claims_folder, visible


def test_names_are_those_that_cuda_was_told() -> None:
    assert visible({}, 2) == ["0", "1"]
    assert visible({"CUDA_VISIBLE_DEVICES": "3, 1"}, 2) == ["3", "1"]
    assert visible({"CUDA_VISIBLE_DEVICES": "GPU-8932f937,MIG-9"}, 2) == ["GPU-8932f937", "MIG-9"]
    assert visible({"CUDA_VISIBLE_DEVICES": "0,7,1"}, 1) == ["0"]  # there is no 7, where CUDA stops reading
    assert visible({"CUDA_VISIBLE_DEVICES": ""}, 0) == []


@pytest.mark.parametrize(
    ("claims", "runs_per_gpu", "index"),
    [
        ({}, 1, 0),
        ({"3": 1}, 1, 1),
        ({"3": 1, "1": 1}, 1, None),
        ({"3": 1, "1": 1}, 2, 0),
        ({"3": 2, "1": 1}, 2, 1),
        ({"3": 2, "1": 1}, 3, 1),
        ({"3": 2, "1": 2}, 2, None),
        ({"0": 1, "2": 1}, 1, 0),  # claims on GPUs that aren't ours
    ],
)
def test_the_least_claimed_is_chosen(claims: dict[str, int], runs_per_gpu: int, index: int | None) -> None:
    assert choose(["3", "1"], claims, runs_per_gpu) == index


def test_no_two_get_the_same_one_unless_asked(tmp_path: Path) -> None:
    with ExitStack() as stack:
        assert [stack.enter_context(claimed(["0", "1"], 1, tmp_path / "c")) for _ in range(2)] == [0, 1]
        with pytest.raises(NoGpuFree, match=r"All 2 GPU\(s\) have 1 run\(s\) already \(0, 1; .* --runs-per-gpu"):
            stack.enter_context(claimed(["0", "1"], 1, tmp_path / "c"))
        assert [stack.enter_context(claimed(["0", "1"], 2, tmp_path / "c")) for _ in range(2)] == [0, 1]
        with pytest.raises(NoGpuFree):
            stack.enter_context(claimed(["0", "1"], 2, tmp_path / "c"))
    with claimed(["0", "1"], 1, tmp_path / "c") as index:  # all were given back
        assert index == 0


def test_claims_go_by_name_and_not_by_place_in_the_list(tmp_path: Path) -> None:
    with claimed(["0", "1"], 1, tmp_path / "c"), claimed(["GPU-a/b", "0"], 1, tmp_path / "c") as second:
        assert second == 0
        with claimed(["0", "1"], 1, tmp_path / "c") as third:
            assert third == 1


def test_a_killed_process_gives_its_gpu_back(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from mufree.lab.train.gpus import claimed
with claimed(["0"], 1, Path({str(tmp_path / "c")!r})):
    print("claimed", flush=True)
    time.sleep(600)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        with pytest.raises(NoGpuFree), claimed(["0"], 1, tmp_path / "c"):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with claimed(["0"], 1, tmp_path / "c") as index:
        assert index == 0


def test_jobs_and_steps_of_slurm_which_number_their_own_gpus_do_not_meet() -> None:
    bare, job = claims_folder({}), {"SLURM_JOB_ID": "17"}
    steps = [job | {"SLURM_STEP_ID": step, "SLURM_STEP_GPUS": gpus} for step, gpus in (("0", "2,3"), ("1", "4"))]
    assert len({bare, *map(claims_folder, (job, *steps))}) == 4
    assert claims_folder(job).name == f"mufree-gpus-{os.getuid()}-17"
    assert claims_folder(steps[0] | {"SLURM_STEP_ID": "2"}) == claims_folder(steps[0])  # the same GPUs: they do
    assert claims_folder(job | {"SLURM_STEP_ID": "0"}) == claims_folder(job)
