"""Every optimizer on one model for some steps, as a script: `short_trainings.py MODEL` prints what each ended at, as JSON.

For subprocesses in which the processor's instructions are limited by the environment.
"""

from __future__ import annotations

import json
import sys
from itertools import islice

import torch
from test_train import MODELS, data_for, make_run

from mufree.lab.data.batches import train_batches
from mufree.lab.train.evaluate import cross_entropy
from mufree.lab.train.network import configure_torch, make_model, make_optimizer

METHODS = ("mup_adamw", "mup_schedulefree", "mup_radam_schedulefree", "mup_sgd", "mup_sgd_schedulefree")
# Of the ResNet, channels that are a multiple of 8 and such that aren't: oneDNN has kernels for each.
WIDTHS = {"mlp": (16,), "resnet": (3, 4, 8), "vit": (16,), "gpt": (16,)}
STEPS = 6


def losses(model_name: str, dtype: torch.dtype) -> dict[str, list[float]]:
    """Training losses by method and width, each step's; all of it in `dtype` if that is float64, else weights in float32."""
    configure_torch()
    found = {}
    for width in WIDTHS[model_name]:
        for method in METHODS:
            run = make_run(model_name, method, width=width, base_width=width, log2_lr=-7)
            data = data_for(run)
            model = make_model(run, data.classes)
            vars(model)["compute_dtype"] = dtype
            if dtype == torch.float64:
                model.double()
            optimizer = make_optimizer(run, model)
            if hasattr(optimizer, "train"):
                optimizer.train()
            batches = train_batches(data, batch_size=8, context_length=run.model.context, seed=0)
            trained = []
            for inputs, targets in islice(batches, STEPS):
                loss = cross_entropy(model(inputs), targets)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                trained.append(float(loss.detach()))
            found[f"{method} w{width}"] = trained
    return found


if __name__ == "__main__":
    (model_name,) = set(sys.argv[1:]) & set(MODELS)
    print(json.dumps({name: losses(model_name, getattr(torch, name)) for name in ("float32", "bfloat16")}))
