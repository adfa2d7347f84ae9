"""How far is a difference of two losses off because it comes from some of the held-out examples? Minutes of one core.

A study evaluates all its runs on the same examples of the validation split. No interval over seeds knows of that choice.
Here, of each task at its largest width, µP × ScheduleFree and the best other method are trained once, at their best rates, and
compared on every example of the whole split. An example's two losses differ by some amount. Its standard deviation over
examples, divided by √(examples of an evaluation), is the standard error that the choice of examples adds. In float32.

`python benchmarks/validation_noise.py --data results/prepared --out noise.csv`, then `mufree freeze-tables paper/data
--validation-noise noise.csv`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from mufree.lab.data import Prepared
from mufree.lab.data.batches import eval_batches
from mufree.lab.data.prepared import load
from mufree.lab.train.run import finish, start
from mufree.study.config import METHODS, Study
from mufree.study.files import write_text
from mufree.study.plan import EVAL_BATCH, Run, dataset_id, expand
from mufree.study.yaml_files import read_yaml

FROZEN = Path(__file__).parents[1] / "paper/data"


def best_two(study: Study, optima: pd.DataFrame, task: str) -> list[Run]:
    """The run of seed 0 of µP × ScheduleFree, and of the best other method, at the best rate of the task's largest width."""
    here = optima[optima["task"].eq(task) & optima["method"].isin(list(METHODS))]
    widest = here[here["width"].eq(here["width"].max())].sort_values("best_loss")
    ours = widest[widest["method"].eq("mup_schedulefree")]
    chosen = pd.concat([ours, widest[~widest["method"].eq("mup_schedulefree")].head(1)])
    wanted = {(row.method, int(row.width), int(row.log2_lr_argmin)) for row in chosen.itertuples()}
    runs = [run for run in expand(study) if run.task == task and run.seed == 0]
    training = study.tasks[task].training
    plain = [run for run in runs if run.training == training and run.optimizer.weight_decay == 0]
    return [run for run in plain if (run.method_name, run.width, run.log2_lr) in wanted]


def losses_by_example(run: Run, data: Prepared) -> np.ndarray:
    """Loss in nats of each validation example, at x, after training; that of a window is the mean of its tokens."""
    session = start(run, data, torch.device("cpu"))
    finish(session)
    context = run.model.context
    total = len(data.valid.y) if context is None else len(data.valid.y) // context
    found = []
    with session.at_x(), torch.no_grad():
        for inputs, targets in eval_batches(
            data, "valid", examples=total, batch_size=EVAL_BATCH, context_length=context
        ):
            logits = session.model(inputs)
            losses = F.cross_entropy(logits.float().flatten(0, -2), targets.flatten(), reduction="none")
            found.append(losses.reshape(len(targets), -1).mean(axis=1))
    return torch.cat(found).numpy()


def measured(study: Study, optima: pd.DataFrame, task: str, prepared: Path) -> dict[str, Any]:
    """A row of the table."""
    runs = [
        run.model_copy(update={"training": run.training.model_copy(update={"precision": "float32"})})
        for run in best_two(study, optima, task)
    ]
    data = load(prepared / dataset_id(runs[0].dataset))
    losses = {run.method_name: losses_by_example(run, data) for run in runs}
    ours = losses.pop("mup_schedulefree")
    ((rival, other),) = losses.items()
    used = study.tasks[task].training.eval_examples
    deviation = float((ours - other).std(ddof=1))
    # Drawn without replacement: of the whole split nothing is left to chance.
    left = (1 - used / len(ours)) ** 0.5
    return {
        "task": task,
        "width": runs[0].width,
        "rival": rival,
        "examples": used,
        "split": len(ours),
        "sd_of_difference": deviation,
        "se": deviation / used**0.5 * left,
    }


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the prepared data sets")
    parser.add_argument("--out", type=Path, required=True, help="the table (CSV)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    study = Study.model_validate(read_yaml(FROZEN / "study.yaml"))
    optima = pd.read_csv(FROZEN / "tables/optima.csv")
    rows = []
    for task in study.tasks:
        rows.append(measured(study, optima, task, args.data))
        print(rows[-1], flush=True)
    write_text(args.out, pd.DataFrame(rows).to_csv(index=False, float_format="%.4g"))


if __name__ == "__main__":
    main()
