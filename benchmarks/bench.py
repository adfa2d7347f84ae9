"""Runs per core-hour of a learning-rate sweep: `mufree sweep` against a plain loop. `make bench`, `make bench-quick`.

For each model and width, in turn and over again: `plain_loop.py` trains one run in a process of its own, and `mufree sweep`
trains the sweep of `speed.yaml` in float32 and in bfloat16. Then, in one process and in turn, steps of each alone. The rates of
matrix products are measured before. The unit is CPU time of one thread, so that what else the machine does counts
little, and ratios less: everything that is compared is measured in alternation, and a number is the median over rounds. Pin it
to one core (`taskset -c 0`) on a busy machine.

Writes `bench.csv`, `bench.png` and `bench.pdf` into --out. `--profile` instead says which kernels a step of each model spends
its time in, by torch's profiler.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import plain_loop
import torch
import torch.nn.functional as F
import yaml

from mufree.lab import data
from mufree.lab.models.kernels import linear
from mufree.lab.train.network import configure_torch
from mufree.lab.train.run import start, take_step
from mufree.study import config
from mufree.study.plan import Run, Sweep, canonical_json, expand, group_sweeps, training_flops

HERE = Path(__file__).parent
KINDS = ("plain loop", "float32", "bfloat16")
QUICK = {"gpt": [64], "mlp": [64]}
TARGETS = {"gpt": 2.5, "vit": 2.0, "mlp": 2.0, "resnet": 1.5}
STEPS_A_TURN, TURNS = 5, 12
MUFREE = "import sys; from mufree.cli import main; sys.exit(main())"  # what the command `mufree` is

Case = tuple[str, int]  # model and width


@dataclass
class Cost:
    """What a process took: CPU seconds, its peak of memory, and the final losses of its runs."""

    seconds: float
    mebibytes: float
    losses: list[float]


def measured(command: list[str], losses: Callable[[str], list[float]]) -> Cost:
    """Run a command to its end. Raises `CalledProcessError` where it fails."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        mebibytes = 0.0
        while not (done := os.wait4(process.pid, os.WNOHANG))[0]:
            mebibytes = max(mebibytes, _peak_mebibytes(process.pid))
            time.sleep(0.1)
        process.returncode = os.waitstatus_to_exitcode(done[1])
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Cost(done[2].ru_utime + done[2].ru_stime, mebibytes, losses(text))


def _peak_mebibytes(process: int) -> float:
    # Linux. Not getrusage: its peak is inherited from the parent process.
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def plain_run(run: Run, folder: Path) -> Cost:
    """One run by the plain loop."""
    arguments = [run.model.name, run.width, run.log2_lr, run.seed, folder, run.training.steps]
    command = [sys.executable, str(HERE / "plain_loop.py"), *map(str, arguments)]
    return measured(command, lambda output: [float(output.split()[0])])


def sweep_run(sweep: Sweep, folder: Path) -> Cost:
    """The whole sweep by `mufree sweep`, into a store of its own."""
    with tempfile.TemporaryDirectory() as out:
        where = ["--data", str(folder), "--store", f"{out}/runs", "--out", f"{out}/sweep"]
        command = [sys.executable, "-c", MUFREE, "sweep", "--runs", canonical_json(sweep.runs), *where]

        def losses(_output: str) -> list[float]:
            import pyarrow.parquet as pq

            rows = pq.read_table(f"{out}/sweep/rows.parquet").to_pydict()
            return list(rows["val_loss"])

        return measured(command, losses)


def step_seconds(runs: dict[str, Run], prepared: Any, folder: Path) -> dict[str, float]:
    """Median CPU seconds of a step of each kind, in alternation within this process."""
    stepping = {
        "plain loop": plain_stepper(runs["float32"], folder),
        **{p: our_stepper(runs[p], prepared) for p in KINDS[1:]},
    }
    seconds: dict[str, list[float]] = defaultdict(list)
    for turn in range(TURNS + 1):
        for kind, step in stepping.items():
            # What train.py tells torch, the plain loop does not have.
            torch.set_deterministic_debug_mode("default" if kind == "plain loop" else "error")
            torch.set_flush_denormal(kind != "plain loop")
            began = time.thread_time()
            for _ in range(STEPS_A_TURN):
                step()
            if turn:
                seconds[kind].append((time.thread_time() - began) / STEPS_A_TURN)
    return {kind: statistics.median(values) for kind, values in seconds.items()}


def our_stepper(run: Run, prepared: Any) -> Callable[[], object]:
    """Takes one step of a run each time it is called."""
    session = start(run, prepared, torch.device("cpu"))
    return partial(take_step, session, watched=False)


def plain_stepper(run: Run, folder: Path) -> Callable[[], object]:
    """The same for the plain loop's step."""
    name = run.model.name
    model = plain_loop.make_model(name, run.width, 512 if name == "gpt" else 10)
    draw, _ = plain_loop.batcher(name, folder, run.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=run.lr, betas=plain_loop.BETAS, eps=plain_loop.EPS, weight_decay=0.0
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

    def step() -> None:
        model.train()
        inputs, targets = draw()
        loss = F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scheduler.step()
        loss.item()

    return step


def product_rates() -> dict[str, float]:
    """FLOP/s of products of 1024×1024 matrices in CPU time, the best of many: torch's own, ours in float32, and bfloat16."""
    a, b = torch.randn(2, 1024, 1024)
    a16, b16 = a.bfloat16(), b.bfloat16()
    products = {
        "torch float32": lambda: F.linear(a, b),
        "ours float32": lambda: linear(a, b),
        "bfloat16": lambda: F.linear(a16, b16),
    }
    best = dict.fromkeys(products, float("inf"))
    for _ in range(30):
        for name, product in products.items():
            began = time.thread_time()
            product()
            best[name] = min(best[name], time.thread_time() - began)
    return {name: 2 * 1024**3 / seconds for name, seconds in best.items()}


def prepare(study: config.Study, models: list[str], folder: Path) -> dict[str, Path]:
    """Prepared data of each model."""
    folders = {}
    for model in models:
        dataset = study.tasks[model].dataset
        folders[model] = folder / dataset.name
        data.prepare(dataset, folders[model], Path("data"))
    return folders


def sweeps_of(study: config.Study, rates: int) -> dict[tuple[str, int, str], Sweep]:
    """The study's sweeps by model, width and precision, cut to `rates` rates in the middle."""
    found = {}
    for sweep in group_sweeps(expand(study)):
        first = (len(sweep.runs) - rates + 1) // 2
        cut = replace(sweep, runs=sweep.runs[max(0, first) :][:rates])
        found[cut.runs[0].model.name, cut.widths[0], cut.runs[0].training.precision] = cut
    return found


def profile(runs: dict[str, Run], prepared: Any) -> None:
    """Print the kernels that a step spends its time in."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    for precision, run in runs.items():
        step = our_stepper(run, prepared)
        for _ in range(3):
            step()
        with profiled(activities=[ProfilerActivity.CPU]) as seen:
            for _ in range(10):
                step()
        events = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
        total = sum(event.self_cpu_time_total for event in events)
        print(f"\n{run.model.name} width {run.width} {precision}")
        for event in events[:12]:
            print(f"{event.self_cpu_time_total / total:7.1%} {event.count / 10:6.1f} calls  {event.key}")


def draw_figure(rows: list[dict[str, Any]], out: Path) -> None:
    """Runs per core-hour by width, a panel a model."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, axes = plt.subplots(
        1, len(models), figsize=(2.6 * len(models) + 0.6, 2.8), squeeze=False, layout="constrained"
    )
    for axis, model in zip(axes[0], models, strict=True):
        for kind, marker in zip(KINDS, "os^", strict=True):
            mine = [row for row in rows if row["model"] == model and row["kind"] == kind]
            axis.plot([r["width"] for r in mine], [r["runs_per_core_hour"] for r in mine], marker=marker, label=kind)
        axis.set(title=model, xlabel="width", xscale="log", yscale="log")
        axis.set_xticks(sorted({r["width"] for r in rows if r["model"] == model}), minor=False)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes[0, 0].set_ylabel("runs per core-hour")
    axes[0, 0].legend()
    for suffix in ("png", "pdf"):
        figure.savefig(out / f"bench.{suffix}", dpi=160)


def bench(
    cases: list[Case], sweeps: dict[Any, Sweep], folders: dict[str, Path], rounds: int
) -> Iterator[dict[str, Any]]:
    """Rows of the table, one for each case and kind; printed and handed out as they come."""
    configure_torch()
    rates = product_rates()
    print("matrix products, GFLOP/s: " + ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in rates.items()))
    for model, width in cases:
        pair = {precision: sweeps[model, width, precision] for precision in KINDS[1:]}
        costs: dict[str, list[Cost]] = defaultdict(list)
        for _ in range(rounds):
            middle = pair["float32"].runs[len(pair["float32"].runs) // 2]
            costs["plain loop"].append(plain_run(middle, folders[model]))
            for precision, sweep in pair.items():
                costs[precision].append(sweep_run(sweep, folders[model]))
        first = {precision: sweep.runs[0] for precision, sweep in pair.items()}
        steps = step_seconds(first, data.load(folders[model]), folders[model])
        flops = training_flops(first["float32"]) / first["float32"].training.steps
        reference = 0.0
        for kind in KINDS:
            count = 1 if kind == "plain loop" else len(pair[kind].runs)
            per_hour = 3600 * count / statistics.median(cost.seconds for cost in costs[kind])
            reference = reference or per_hour
            row = {
                "model": model,
                "width": width,
                "kind": kind,
                "runs": count,
                "runs_per_core_hour": per_hour,
                "ratio": per_hour / reference,
                "steps_per_second": 1 / steps[kind],
                "step_ratio": steps["plain loop"] / steps[kind],
                "gflops": flops / steps[kind] / 1e9,
                "share_of_float32_rate": flops / steps[kind] / rates["torch float32"],
                "share_of_own_rate": flops
                / steps[kind]
                / rates[{"plain loop": "torch float32", "float32": "ours float32"}.get(kind, "bfloat16")],
                "peak_mib": statistics.median(cost.mebibytes for cost in costs[kind]),
                "loss": costs[kind][0].losses[count // 2],  # at the same rate
            }
            print(
                f"{model:6} w{width:<4} {kind:10} {per_hour:7.0f} runs/core-hour ({row['ratio']:.2f}x)  "
                f"{row['steps_per_second']:6.1f} steps/s ({row['step_ratio']:.2f}x)  {row['gflops']:5.0f} GFLOP/s "
                f"({row['share_of_float32_rate']:.0%} of torch's float32 product, {row['share_of_own_rate']:.0%} of its own "
                f"kernel's)  {row['peak_mib']:.0f} MiB  loss {row['loss']:.3f}",
                flush=True,
            )
            yield row


def write_table(rows: list[dict[str, Any]], out: Path) -> None:
    """Write bench.csv."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "bench.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def markdown(rows: Iterable[Mapping[str, str]]) -> str:
    """The table of docs/performance.md, from rows as bench.csv has them."""
    lines = [
        "| model | width | | runs per core-hour | ratio | steps/s | ratio | GFLOP/s | share of torch's rate | peak MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        n = {name: float(value) for name, value in row.items() if name not in ("model", "kind")}
        lines.append(
            f"| {row['model']} | {row['width']} | {row['kind']} | {n['runs_per_core_hour']:.0f} | {n['ratio']:.2f} | "
            f"{n['steps_per_second']:.1f} | {n['step_ratio']:.2f} | {n['gflops']:.0f} | {n['share_of_float32_rate']:.0%} | "
            f"{n['peak_mib']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser(description="Runs per core-hour: mufree sweep against a plain loop.")
    parser.add_argument("--cases", nargs="*", default=[], metavar="MODEL:WIDTH", help="default: all of speed.yaml")
    parser.add_argument("--rounds", type=int, default=1, help="how often everything is measured (default 1)")
    parser.add_argument("--rates", type=int, default=10, help="runs in a sweep (default 10, as in the study)")
    parser.add_argument("--steps", type=int, help="steps a run, a multiple of 20 (default 300, the study's)")
    parser.add_argument("--quick", action="store_true", help="two cases, two rates, 40 steps: does it work at all?")
    parser.add_argument("--profile", action="store_true", help="print where the time of a step goes, and stop")
    parser.add_argument("--out", type=Path, default=Path("results/bench"))
    parser.add_argument(
        "--table", type=Path, metavar="CSV", help="print a bench.csv as the table of the docs, and stop"
    )
    arguments = parser.parse_args()
    if arguments.table:
        with arguments.table.open(newline="", encoding="utf-8") as file:
            print(markdown(csv.DictReader(file)))
        return
    if arguments.quick:
        arguments.rounds, arguments.rates, arguments.steps = 1, 2, 40
    raw = yaml.safe_load((HERE / "speed.yaml").read_text(encoding="utf-8"))
    if arguments.steps:
        for task in raw["tasks"].values():
            task["training"]["steps"] = arguments.steps
    study = config.Study.model_validate(raw)
    sweeps = sweeps_of(study, arguments.rates)
    cases = list(dict.fromkeys((model, width) for model, width, _ in sweeps))
    if arguments.quick:
        cases = [(model, width) for model, width in cases if width in QUICK.get(model, [])]
    if arguments.cases:
        cases = [(name, int(width)) for name, _, width in (case.partition(":") for case in arguments.cases)]
    with tempfile.TemporaryDirectory() as folder:
        folders = prepare(study, list(dict.fromkeys(model for model, _ in cases)), Path(folder))
        if arguments.profile:
            configure_torch()
            for model, width in cases:
                profile({p: sweeps[model, width, p].runs[0] for p in KINDS[1:]}, data.load(folders[model]))
            return
        rows = []
        for row in bench(cases, sweeps, folders, arguments.rounds):
            rows.append(row)
            write_table(rows, arguments.out)  # each time: the last case comes an hour after the first
    draw_figure(rows, arguments.out)
    for row in rows:
        if row["kind"] != "plain loop" and row["ratio"] < TARGETS[row["model"]]:
            print(f"below its target: {row['model']} width {row['width']} {row['kind']}: {row['ratio']:.2f}x")


if __name__ == "__main__":
    main()
