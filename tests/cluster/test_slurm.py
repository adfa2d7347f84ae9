"""Studies on a real SLURM: the same bytes as without it, and nothing lost when jobs, Snakemake or the node are stopped."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from checkouts import Checkout, kill_group
from slurm import Slurm, wait_for

RUNS = 16  # of the small study
ROWS = "results/small/rows.parquet"
ALIVE = ("PENDING", "RUNNING", "COMPLETING")

Local = Callable[[str], Checkout]


@pytest.fixture(autouse=True)
def nothing_left(slurm: Slurm, checkout: Checkout) -> Iterator[None]:
    """End what a test left running. `proctrack/linuxproc` loses sight of a process whose parent went down with the node."""
    yield
    if slurm.state_of_node() == "down":
        slurm.set_node("resume")
    slurm.cancel_all()
    for process in running_in(checkout.path):
        process.kill()


def running_in(folder: Path) -> list[psutil.Process]:
    """Processes whose command names a file in `folder`."""
    processes = psutil.process_iter(["cmdline"])
    return [each for each in processes if any(f"{folder}/" in part for part in each.info["cmdline"] or [])]


def through_profile(
    checkout: Checkout,
    study: str,
    *targets: str,
    device: str = "cpu",
    config: Sequence[str] = (),
    options: Sequence[str] = (),
) -> subprocess.Popen[str]:
    """Snakemake on the login node with profiles/slurm; only what this SLURM lacks, GPUs and accounting, is said otherwise."""
    command = [
        *(sys.executable, "-m", "snakemake", "--profile", "profiles/slurm", "--slurm-status-command", "squeue"),
        *("--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10", *options),
        *("--config", f"study={study}", f"device={device}", *config, "--", *targets),
    ]
    with (checkout.path / "said.txt").open("a") as said:
        return subprocess.Popen(
            command,
            cwd=checkout.path,
            env=checkout.environment,
            text=True,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(checkout: Checkout, process: subprocess.Popen[str]) -> None:
    assert process.wait(1800) == 0, (checkout.path / "said.txt").read_text()


def with_data_of(local: Checkout, checkout: Checkout) -> Checkout:
    """Data staged once, beforehand, as for nodes without a network."""
    shutil.copytree(local.path / "results/prepared", checkout.path / "results/prepared")
    return checkout


def stored(checkout: Checkout) -> dict[Path, int]:
    """The finished runs, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in (checkout.path / "results/small/runs").glob("*.parquet")}


def some_are_finished(checkout: Checkout) -> Callable[[], bool]:
    return lambda: len(stored(checkout)) >= 3


def assert_same_rows(one: Checkout, other: Checkout, study: str) -> None:
    for name in ("rows.parquet", "curves.parquet"):
        path = Path("results") / study / name
        assert (one.path / path).read_bytes() == (other.path / path).read_bytes()


def assert_nothing_lost(checkout: Checkout, kept: dict[Path, int], local: Checkout) -> None:
    """What was finished when something was stopped is as it was, and the study ends in the same bytes as without SLURM."""
    assert 3 <= len(kept) < RUNS
    assert {path: time for path, time in stored(checkout).items() if path in kept} == kept
    assert len(stored(checkout)) == RUNS
    assert_same_rows(checkout, local, "small")


# --- profiles/slurm --------------------------------------------------------------------------------------------------


def test_smoke_through_the_profile_gives_the_rows_of_a_local_run(
    slurm: Slurm, checkout: Checkout, local: Local
) -> None:
    before = set(slurm.jobs())
    finish(checkout, through_profile(checkout, "smoke", "results/smoke/rows.parquet"))
    assert_same_rows(checkout, local("smoke"), "smoke")
    submitted = {job: comment for job, comment in slurm.jobs().items() if job not in before}
    sweeps = [job for job, comment in submitted.items() if comment.startswith("rule_sweep")]
    assert len(sweeps) == 15  # two neighbouring widths in one
    # What the plan estimates is what SLURM was asked for: such small networks take the least there is.
    asked = [slurm.details(job) for job in sweeps]
    assert {each["TimeLimit"] for each in asked} == {"00:10:00"}
    assert {each["MinMemoryNode"] for each in asked} == {"1300M"}
    assert {each["Requeue"] for each in asked} == {"1"}
    assert list((checkout.path / ".snakemake/slurm_logs/rule_sweep").rglob("*.log"))


def test_a_cancelled_sweep_is_tried_again_and_goes_on(slurm: Slurm, checkout: Checkout, local: Local) -> None:
    process = through_profile(with_data_of(local("small"), checkout), "small", ROWS)
    wait_for(some_are_finished(checkout), "three runs are finished")
    wait_for(lambda: sweeps_running(slurm), "a sweep is running")
    cancelled = sweeps_running(slurm)
    slurm.cancel(*cancelled)
    kept = stored(checkout)
    finish(checkout, process)
    assert set(cancelled) & set(slurm.jobs("CANCELLED"))
    assert_nothing_lost(checkout, kept, local("small"))


def test_snakemake_killed_in_the_middle_is_called_again_and_completes(
    slurm: Slurm, checkout: Checkout, local: Local
) -> None:
    process = through_profile(with_data_of(local("small"), checkout), "small", ROWS)
    wait_for(some_are_finished(checkout), "three runs are finished")
    kill_group(process)
    slurm.cancel_all()  # as docs/cluster.md tells: jobs that nobody watches any longer
    kept = stored(checkout)
    checkout.snakemake("--unlock", study="small")
    finish(checkout, through_profile(checkout, "small", ROWS))
    assert_nothing_lost(checkout, kept, local("small"))


def test_a_node_that_goes_down_and_comes_back_costs_no_finished_run(
    slurm: Slurm, checkout: Checkout, local: Local
) -> None:
    process = through_profile(with_data_of(local("small"), checkout), "small", ROWS)
    wait_for(some_are_finished(checkout), "three runs are finished")
    wait_for(lambda: sweeps_running(slurm), "a sweep is running")
    lost = sweeps_running(slurm)
    slurm.set_node("down")
    wait_for(lambda: not slurm.jobs("RUNNING", "COMPLETING"), "nothing runs")
    kept = stored(checkout)
    slurm.set_node("resume")
    finish(checkout, process)
    assert any(int(slurm.details(job)["Restarts"]) > 0 for job in lost)
    assert_nothing_lost(checkout, kept, local("small"))


def test_a_time_limit_shorter_than_a_run_ends_in_the_same_bits(slurm: Slurm, checkout: Checkout, local: Local) -> None:
    """At the limit SLURM sends SIGTERM; the sweep saves its run, and the next try goes on from there."""
    before = set(slurm.jobs())
    with_data_of(local("long"), checkout)
    shutil.copy(local("long").path / "experiments/long.yaml", checkout.path / "experiments")
    # On a busy machine a minute may hold little training.
    options = ("--retries", "20")
    process = through_profile(checkout, "long", "results/long/rows.parquet", config=["max_minutes=1"], options=options)
    runs = checkout.path / "results/long/runs"
    # Nothing else writes one: between two that are due by time lie ten minutes.
    wait_for(lambda: list(runs.glob("*.checkpoint")), "a checkpoint was saved")
    assert not list(runs.glob("*.parquet"))
    finish(checkout, process)
    submitted = {job: comment for job, comment in slurm.jobs().items() if job not in before}
    tries = sorted((job for job, comment in submitted.items() if comment.startswith("rule_sweep")), key=int)
    assert len(tries) >= 2
    assert {slurm.details(job)["TimeLimit"] for job in tries} == {"00:01:00"}
    assert {slurm.details(job)["JobState"] for job in tries[:-1]} <= {"TIMEOUT", "FAILED"}
    assert not list(runs.glob("*.checkpoint"))
    assert_same_rows(checkout, local("long"), "long")


def test_every_sweep_asks_for_a_gpu_and_waits_for_no_other(slurm: Slurm, checkout: Checkout, local: Local) -> None:
    """profiles/default lets one sweep at a time use this machine's GPU; jobs that are submitted have their own.

    The GPUs here are false: each sweep fails, says why, and does not fall back to a CPU.
    """
    before = set(slurm.jobs())
    process = through_profile(
        with_data_of(local("small"), checkout), "small", ROWS, device="cuda", options=("--retries", "0")
    )
    assert process.wait(600) != 0
    submitted = [slurm.details(job) for job in slurm.jobs() if job not in before]
    assert [each["TresPerJob"] for each in submitted] == ["gres:gpu:1"] * 4
    assert max(each["SubmitTime"] for each in submitted) <= min(each["EndTime"] for each in submitted)
    assert {each["JobState"] for each in submitted} == {"FAILED"}
    logs = (checkout.path / "results/small/logs/sweep").glob("*.log")
    assert ["PyTorch finds none" in log.read_text() for log in logs] == [True] * 4
    assert not stored(checkout)


def sweeps_running(slurm: Slurm) -> list[str]:
    return [job for job, comment in slurm.jobs("RUNNING").items() if comment.startswith("rule_sweep")]


# --- profiles/slurm-node ---------------------------------------------------------------------------------------------


def sbatch(checkout: Checkout, *options: str, study: str) -> str:
    """Submit job.sh; return the job's id."""
    command = ["sbatch", "--parsable", "--cpus-per-task=2", "--mem=6G", "--time=30", *options]
    done = subprocess.run(
        [*command, "profiles/slurm-node/job.sh", f"study={study}"],
        cwd=checkout.path,
        env=checkout.environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def wait_until_done(slurm: Slurm, checkout: Checkout, job: str) -> None:
    wait_for(lambda: not any(each.split("_")[0] == job for each in slurm.jobs(*ALIVE)), f"job {job} is done", 900)
    said = "".join(path.read_text() for path in sorted(checkout.path.glob(f"slurm-{job}*.out")))
    states = [slurm.details(each)["JobState"] for each in slurm.jobs() if each.split("_")[0] == job]
    assert set(states) == {"COMPLETED"}, said


def test_smoke_in_one_allocation_gives_rows_and_report(slurm: Slurm, checkout: Checkout, local: Local) -> None:
    wait_until_done(slurm, checkout, sbatch(checkout, study="smoke"))
    assert_same_rows(checkout, local("smoke"), "smoke")
    assert (checkout.path / "results/smoke/report.pdf").read_bytes().startswith(b"%PDF")


def test_allocations_share_a_study(slurm: Slurm, checkout: Checkout, local: Local) -> None:
    with_data_of(local("small"), checkout)
    wait_until_done(slurm, checkout, sbatch(checkout, "--array=1-2", "--cpus-per-task=1", study="small"))
    assert len(stored(checkout)) == RUNS
    kept = stored(checkout)
    checkout.snakemake(ROWS, study="small")
    assert stored(checkout) == kept
    assert_same_rows(checkout, local("small"), "small")


@pytest.mark.parametrize("how", ["scancel", "SIGKILL", "node down"])
def test_an_allocation_that_is_stopped_goes_on_where_it_was(
    how: str, slurm: Slurm, checkout: Checkout, local: Local
) -> None:
    with_data_of(local("small"), checkout)
    job = sbatch(checkout, "--array=1", study="small")
    wait_for(some_are_finished(checkout), "three runs are finished")
    if how == "node down":
        slurm.set_node("down")
    else:
        slurm.cancel(*(["--signal=KILL", "--batch"] if how == "SIGKILL" else []), f"{job}_1")
    wait_for(lambda: not slurm.jobs("RUNNING", "COMPLETING"), "nothing runs")
    kept = stored(checkout)
    if how == "node down":
        slurm.set_node("resume")  # SLURM itself starts the job anew
    else:
        job = sbatch(checkout, "--array=1", study="small")
    wait_until_done(slurm, checkout, job)
    checkout.snakemake(ROWS, study="small")
    assert_nothing_lost(checkout, kept, local("small"))
