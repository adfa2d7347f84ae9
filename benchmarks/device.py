"""The engine for many runs at once against the serial path, on one device: speed, agreement, memory, resumption.

`python benchmarks/device.py` runs small networks on a CPU, in a minute; `--device cuda` is what it is for. It prints one table
and writes one JSON. Cases come in the order of what they are worth, and none starts after `--minutes`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mufree.lab.data import Prepared
from mufree.lab.data.prepared import Split
from mufree.lab.train import checkpoints
from mufree.lab.train.network import configure_torch
from mufree.lab.train.run import train
from mufree.lab.train.stack import Stack, finish, train_stack
from mufree.lab.train.watch import Trace
from mufree.study import machine
from mufree.study.config import METHODS, OptimizerSettings
from mufree.study.files import write_json
from mufree.study.plan import Run, training_flops


@dataclass(frozen=True)
class Case:
    """A network, how many of it are trained side by side, and how long."""

    name: str
    model: dict[str, Any]
    width: int
    batch_size: int
    runs: int
    steps: int
    precision: str = "float32"


def _gpt(depth: int, context: int) -> dict[str, Any]:
    return {"name": "gpt", "depth": depth, "head_dim": 16, "context_length": context}


CASES: dict[str, list[Case]] = {
    "cuda": [
        Case("GPT 64", _gpt(2, 64), 64, 16, 60, 200, "bfloat16"),
        Case("GPT 64", _gpt(2, 64), 64, 16, 60, 200),
        Case("GPT 256", _gpt(2, 64), 256, 16, 60, 100, "bfloat16"),
        Case("MLP 256", {"name": "mlp"}, 256, 64, 60, 200, "bfloat16"),
        Case("GPT 1024, 6 layers", _gpt(6, 256), 1024, 64, 4, 20, "bfloat16"),
        Case("ViT 128", {"name": "vit"}, 128, 64, 24, 40, "bfloat16"),
        Case("ResNet 32", {"name": "resnet"}, 32, 64, 24, 40, "bfloat16"),
    ],
    "cpu": [
        *(Case(f"GPT {width}", _gpt(1, 64), width, 4, 35, 60) for width in (16, 32, 64)),
        *(Case(f"MLP {width}", {"name": "mlp"}, width, 64, 35, 60) for width in (32, 64, 128)),
    ],
}
VOCABULARY = 512
SERIAL_RUNS = 2


def data_for(case: Case) -> Prepared:
    """Made-up data from which something can be learnt: tokens that walk, images that are brighter for later classes."""
    rng = np.random.default_rng(0)
    if case.model["name"] == "gpt":
        walk = np.cumsum(rng.integers(-3, 4, 200_001)) % VOCABULARY
        part = Split(walk[:-1].astype(np.uint16), walk[1:].astype(np.uint16))
        return Prepared("text", VOCABULARY, part, part, None, {"settings": {}}, "made up")
    labels = rng.integers(0, 10, 4096)
    images = rng.integers(0, 100, (4096, 32, 32, 3)) + 15 * labels[:, None, None, None]
    part = Split(images.astype(np.uint8), labels)
    about = {"settings": {}, "mean": [0.5] * 3, "std": [0.25] * 3}
    return Prepared("image", 10, part, part, None, about, "made up")


def runs_of(case: Case) -> list[Run]:
    """So many runs at neighbouring rates, each third with a seed of its own."""
    text = case.model["name"] == "gpt"
    training = {"steps": case.steps, "batch_size": case.batch_size, "evaluations": 2, "eval_examples": case.batch_size}
    return [
        Run.model_validate(
            {
                "task": case.name.lower().replace(" ", "-").replace(",", ""),
                "dataset": {"name": "wiki_sample", "vocab_size": VOCABULARY} if text else {"name": "photo_patches"},
                "model": case.model,
                "method_name": "mup_schedulefree",
                "method": METHODS["mup_schedulefree"].model_dump(),
                "optimizer": OptimizerSettings().model_dump(),
                "training": training | {"precision": case.precision},
                "width": case.width,
                "base_width": 16,
                "log2_lr": -9 + number % 3,
                "seed": number // 3,
            }
        )
        for number in range(case.runs)
    ]


def measure(case: Case, device: str, compiles: bool) -> dict[str, Any]:
    """What a case gives: milliseconds a step and run, both ways, and how far losses lie apart."""
    runs, data = runs_of(case), data_for(case)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    serial = [train(run, data, device=device) for run in runs[:SERIAL_RUNS]]
    stacked = train_stack(runs, data, device=device, compiles=compiles)
    alone, together = (
        sum(t.seconds["train"] for t in traces) / len(traces) / case.steps for traces in (serial, stacked)
    )
    apart = max(abs(a.train_loss / b.train_loss - 1) for a, b in zip(serial, stacked, strict=False))
    return {
        **asdict(case),
        "serial_ms": 1000 * alone,
        "stack_ms": 1000 * together,
        "ratio": alone / together,
        "gflops": training_flops(runs[0]) / case.steps / together / 1e9,
        "loss_apart": apart,
        "loss": float(np.median([trace.train_loss for trace in stacked])),
        "peak_mib": torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None,
    }


def resumes(case: Case, device: str) -> float:
    """The largest relative difference that a stop in the middle makes to a loss; 0 on a CPU."""
    runs, data, half = runs_of(case)[:4], data_for(case), case.steps // 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stack"
        configure_torch()
        stack = Stack(runs, data, torch.device(device))
        stack.evaluate()
        while stack.step < half:
            stack.take_step()
        checkpoints.save(path, stack)
        again: list[Trace] = finish(checkpoints.resumed_stack(path, runs, data, torch.device(device)))
    whole = train_stack(runs, data, device=device)
    return max(abs(a.train_loss / b.train_loss - 1) for a, b in zip(whole, again, strict=True))


def table(found: list[dict[str, Any]]) -> str:
    """The cases as Markdown."""
    head = ["network", "precision", "runs", "serial, ms", "side by side, ms", "ratio", "GFLOP/s", "losses apart", "MiB"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for case in found:
        peak = "–" if case["peak_mib"] is None else f"{case['peak_mib']:,.0f}"
        cells = [
            case["name"],
            case["precision"],
            str(case["runs"]),
            f"{case['serial_ms']:.2f}",
            f"{case['stack_ms']:.3f}",
        ]
        cells += [f"{case['ratio']:.1f}", f"{case['gflops']:,.0f}", f"{case['loss_apart']:.0e}", peak]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true", help="by kernels that torch.compile writes; compiling counts")
    parser.add_argument("--minutes", type=float, default=8.0, help="no case starts later (default 8)")
    parser.add_argument("--out", type=Path, default=Path("results/bench/device.json"))
    arguments = parser.parse_args(argv)
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else machine.cpu_name()
    began, found, worked = time.monotonic(), [], []
    about = {"device": name, "torch": torch.__version__, "compiled": arguments.compile}
    for case in CASES[arguments.device]:
        if time.monotonic() - began > 60 * arguments.minutes:
            print(f"no time left for {case.name}", file=sys.stderr)
            break
        try:
            found.append(measure(case, arguments.device, arguments.compile))
        except Exception as error:  # the other cases are worth having
            print(f"{case.name} {case.precision}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        worked.append(case)
        print(table(found[-1:]).splitlines()[-1], flush=True)
        write_json(arguments.out, {**about, "cases": found})
    if not worked:
        sys.exit("no case could be measured")
    resumed = resumes(worked[0], arguments.device)
    write_json(arguments.out, {**about, "cases": found, "resumed_apart": resumed})
    print(f"\n{name}, PyTorch {torch.__version__}; a step and run in milliseconds.\n\n{table(found)}")
    print(f"\nStopped in the middle and resumed, losses lie {resumed:.0e} apart.")


if __name__ == "__main__":
    main()
