"""Does bfloat16 change a conclusion? `python benchmarks/precision_check.py [--seeds N]`.

Trains `precision.yaml` in float32 and in bfloat16 (the same seeds, so the same initial weights and batches) and prints, for
each task, method and width: log2 of the best rate in both and their difference, the best loss in both and their difference
beside the seeds' standard deviation, and how many runs diverged. The best rate is the vertex of the parabola through the
lowest point of the seed means and its neighbours (a curve in log2 rate), or the lowest point itself at an end of the grid.

A difference of more than half a grid step or of more than the seeds' standard deviation is marked.
"""

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from mufree.lab import data
from mufree.lab.train.run import train
from mufree.study import config
from mufree.study.plan import Run, expand
from mufree.study.yaml_files import load_study

STUDY = Path(__file__).with_name("precision.yaml")
PRECISIONS = ("float32", "bfloat16")


def optimum(means: dict[int, float]) -> tuple[float, float]:
    """log2 of the best rate, and the mean loss at the best rate of the grid."""
    best = min(means, key=lambda lr: means[lr])
    low, here, high = (means.get(best + step, float("nan")) for step in (-1, 0, 1))
    curvature = low - 2 * here + high
    offset = (low - high) / (2 * curvature) if curvature > 0 else 0.0
    return best + offset, here


def runs_of(study: config.Study, precision: str, seeds: int) -> list[Run]:
    """The study's runs in a precision."""
    return [
        run.model_copy(update={"training": run.training.model_copy(update={"precision": precision})})
        for run in expand(study)
        if run.seed < seeds
    ]


def main() -> None:
    """Train all of it and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    study = load_study(STUDY)
    losses: dict[tuple[str, str, int], dict[str, dict[int, list[float]]]] = defaultdict(
        lambda: {precision: defaultdict(list) for precision in PRECISIONS}
    )
    diverged: dict[tuple[str, str, int], dict[str, int]] = defaultdict(lambda: dict.fromkeys(PRECISIONS, 0))
    with tempfile.TemporaryDirectory() as folder:
        prepared = {}
        for name, task in study.tasks.items():
            data.prepare(task.dataset, Path(folder) / name, Path("data"))
            prepared[name] = data.load(Path(folder) / name)
        for pair in zip(*(runs_of(study, precision, seeds) for precision in PRECISIONS), strict=True):
            for run in pair:
                trace = train(run, prepared[run.task])
                cell = run.task, run.method_name, run.width
                # A run that diverged counts as one that learnt nothing.
                loss = trace.val_loss if trace.status == "ok" else trace.initial_loss
                losses[cell][run.training.precision][run.log2_lr].append(loss)
                diverged[cell][run.training.precision] += trace.status != "ok"
                print(".", end="", file=sys.stderr, flush=True)
    rate, loss = ["log2 η*: float32", "bfloat16", "Δ"], ["best loss: float32", "bfloat16", "Δ"]
    columns = ["task", "method", "width", *rate, *loss, "seeds' s", "diverged"]
    print("\n| " + " | ".join(columns) + " |\n" + "| --- " * len(columns) + "|")
    for (task_name, method, width), cell in losses.items():
        means = {p: {lr: statistics.fmean(values) for lr, values in cell[p].items()} for p in PRECISIONS}
        (lr32, loss32), (lr16, loss16) = (optimum(means[p]) for p in PRECISIONS)
        best = min(means["float32"], key=lambda lr: means["float32"][lr])
        noise = statistics.stdev(cell["float32"][best]) if seeds > 1 else float("nan")
        marks = ("**" if abs(lr16 - lr32) > 0.5 else "", "**" if abs(loss16 - loss32) > noise else "")
        print(
            f"| {task_name} | {method} | {width} | {lr32:.2f} | {lr16:.2f} | {marks[0]}{lr16 - lr32:+.2f}{marks[0]} | "
            f"{loss32:.4f} | {loss16:.4f} | {marks[1]}{loss16 - loss32:+.4f}{marks[1]} | {noise:.4f} | "
            f"{diverged[task_name, method, width]['float32']}/{diverged[task_name, method, width]['bfloat16']} |"
        )


if __name__ == "__main__":
    main()
