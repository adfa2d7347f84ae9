"""Tiny runs by the processes that torchrun starts, rightly and wrongly: `torchrun … ddp_runs.py FILE`.

The first process writes what each left behind, as `outcome` gives it. The tests' folder must be on PYTHONPATH.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from test_train import data_for, make_run
from torch import Tensor, nn

from mufree.lab.train.checkpoints import Interrupted, keeper, resumed
from mufree.lab.train.network import configure_torch
from mufree.lab.train.ranks import ALONE, Ranks, RanksError, joined
from mufree.lab.train.run import finish, start
from mufree.lab.train.watch import Trace
from mufree.study.plan import Run

CASES = [(model, method) for model in ("mlp", "gpt") for method in ("mup_adamw", "mup_schedulefree", "mup_adamw_ema")]
CPU = torch.device("cpu")


def run_of(model: str, method: str) -> Run:
    """A small rate: at a large one, Adam turns rounding into whole steps. Two batches an evaluation, one for each process."""
    return make_run(model, method, log2_lr=-9, training={"eval_examples": 250})


def outcome(trace: Trace) -> dict[str, Any]:
    curves = {f"{s.name} {s.layer}".strip(): torch.from_numpy(s.values) for s in trace.curves}
    return {"row": trace.row(), "curves": curves}


def trained(run: Run, ranks: Ranks = ALONE) -> dict[str, Any]:
    configure_torch()
    return outcome(finish(start(run, data_for(run), CPU, ranks)))


class NotAveraged(Ranks):
    """Each goes its own way."""

    def replicate(self, model: nn.Module) -> nn.Module:
        return model


class Summed(Ranks):
    """The sum of the gradients for their mean: what a learning rate times the number of processes amounts to."""

    def replicate(self, model: nn.Module) -> nn.Module:
        wrapped = super().replicate(model)

        def hook(_state, bucket):  # type: ignore[no-untyped-def] # torch reads annotations, and not as strings
            return (
                torch.distributed.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda f: f.value()[0])
            )

        wrapped.register_comm_hook(None, hook)
        return wrapped


class SamePart(Ranks):
    """Half of the batch twice."""

    def part(self, batch: Tensor) -> Tensor:
        return batch[: len(batch) // self.size]


class OtherOrder(Ranks):
    """One process that reads its batches backwards: the same mathematics, other roundings."""

    def part(self, batch: Tensor) -> Tensor:
        return batch.flip(0)


WRONG = {"NotAveraged": NotAveraged, "Summed": Summed, "SamePart": SamePart}


def refused(run: Run, ranks: Ranks) -> str:
    try:
        trained(run, ranks)
    except RanksError as error:
        return str(error)
    return "not refused"


def stopped_and_resumed(run: Run, ranks: Ranks, path: Path) -> dict[str, Any]:
    """Stop where only the last process is asked to."""
    session = resumed(path, run, data_for(run), CPU, ranks)
    try:
        finish(session, keeper(path, session, 600, lambda: ranks.rank == ranks.size - 1 and session.step == 5))
    except Interrupted:
        session = resumed(path, run, data_for(run), CPU, ranks)
        assert session.step == 5
        return outcome(finish(session))
    raise AssertionError("not interrupted")


def main(file: Path) -> None:
    with joined("cpu") as ranks:
        results: dict[str, Any] = {f"{m} {o}": trained(run_of(m, o), ranks) for m, o in CASES}
        for name, kind in WRONG.items():
            results[name] = {
                m: trained(run_of(*m.split()), kind(ranks.rank, ranks.size)) for m in ("mlp mup_sgd", "gpt mup_sgd")
            }
        results["mup_sgd"] = {m: trained(run_of(*m.split()), ranks) for m in ("mlp mup_sgd", "gpt mup_sgd")}
        results["resnet"] = refused(make_run("resnet"), ranks)
        results["odd"] = refused(make_run(training={"batch_size": 7}), ranks)
        for method in ("mup_adamw_ema", "mup_schedulefree"):
            run = run_of("mlp", method)
            results[f"resumed {method}"] = stopped_and_resumed(run, ranks, file.with_name(f"{method}.checkpoint"))
        if ranks.first:
            torch.save(results, file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
