"""What was run: tasks, cells, methods and data, and what a reader has to know of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from mufree.publish.figures import ordered
from mufree.publish.report.blocks import Block, points, table, text
from mufree.publish.report.facts import Facts
from mufree.publish.report.words import MISSING, listing, number, plain, sentence, span
from mufree.study.config import METHODS, Method

ROLES = {"train": "trained", "valid": "validated", "test": "tested"}
OPTIMIZERS = {
    "adamw": "AdamW",
    "adamw_schedulefree": "ScheduleFree AdamW",
    "radam_schedulefree": "ScheduleFree RAdam",
    "sgd": "SGD with momentum",
    "sgd_schedulefree": "ScheduleFree SGD",
}
SCHEDULES = {
    "cosine": "cosine to zero",
    "constant": "constant after warm-up",
    "wsd": "constant, then a decay over the last fifth",
}


def blocks(tasks: Sequence[Facts], manifests: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """All of it, for all tasks."""
    return [_tasks(tasks), _methods(tasks[0]), *_other_cells(tasks), _data(tasks, manifests), *_notes(tasks)]


def manifest_of(dataset: Mapping[str, Any], manifests: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The manifest of a task's data set; a note on either side is no setting. Raises ValueError if there is none."""
    for manifest in manifests:
        if _without_note(manifest["settings"]) == _without_note(dataset):
            return manifest
    raise ValueError(f"provenance.json has no manifest of data set {dataset['name']} with this study's settings")


def _without_note(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "note"}


def caveat_of(manifest: Mapping[str, Any]) -> str:
    """A sentence for every table and figure if the published splits are not used as published; else nothing.

    `published_splits` of a manifest says which published split has which role.
    """
    roles = manifest.get("published_splits", {})
    if all(role == split for role, split in roles.items()):
        return ""
    used = [f"{ROLES[role]} on the published {split} split" for role, split in roles.items()]
    return f"Not the usual splits: {listing(used)}" + ("." if "test" in roles else "; there is no test split.")


def _tasks(tasks: Sequence[Facts]) -> Block:
    rows = []
    for facts in tasks:
        training = facts.task["training"]
        rates = [int(x) for x in facts.tables["loss"]["log2_lr"].unique()]
        rows.append(
            [
                f"{facts.description}\n({facts.name})",
                ", ".join(f"{w} (base)" if w == facts.base else str(w) for w in facts.widths),
                span(rates),
                span(facts.seeds),
                f"{training['steps']} × {training['batch_size']}",
                str(facts.runs),
            ]
        )
    columns = ["Task", "Widths", "log2 learning rates", "Seeds", "Steps × batch", "Runs"]
    return table("Tasks. Widths, rates and seeds are those of the primary cells; runs are all", columns, rows, fill=[0])


def _methods(facts: Facts) -> Block:
    rows = []
    for name, role in facts.roles.items():
        free = role.optimizer.endswith("schedulefree")
        evaluated = "x, its own average" if free else _averaged(role)
        rows.append(
            [
                facts.named(name),
                {"sp": "standard (SP)", "mup": "µP"}[role.parametrization],
                OPTIMIZERS.get(role.optimizer, role.optimizer),
                SCHEDULES[role.schedule],
                evaluated,
                part_in_study(role),
            ]
        )
    columns = ["Method", "Parametrization", "Optimizer", "Learning rate", "Evaluated at", "Part in the study"]
    return table("Methods, and what each is there for", columns, rows, fill=[0, 5])


def _averaged(role: Method) -> str:
    return "an exponential mean of the weights" if _setting(role, "average") == "ema" else "the weights"


def _setting(role: Method, name: str) -> str:
    return str(getattr(role, name, ""))


def part_in_study(role: Method) -> str:
    """What a method is there for, read from its settings."""
    if role in METHODS.values():
        return "one of the four compared"
    if _setting(role, "embedding_lr") == "times_width":
        return "control: SP whose embedding's rate grows with width"
    if _setting(role, "average") == "ema":
        return f"control: averaging without ScheduleFree, {SCHEDULES[role.schedule].split(',')[0]}"
    if role.optimizer == "adamw":
        return {"wsd": "rival schedule", "constant": "control: no schedule and no average"}.get(
            role.schedule, "further method"
        )
    return "further optimizer"


def _other_cells(tasks: Sequence[Facts]) -> list[Block]:
    rows = []
    for facts in tasks:
        cells = facts.cells[facts.cells["variant"].ne("")]
        groups: dict[tuple[str, ...], list[pd.DataFrame]] = {}
        for variant, group in cells.groupby("variant", sort=False):
            methods = tuple(ordered(group["method"]))
            seen = (span([int(w) for w in group["width"]]), span([int(n) for n in group["n_seeds"]]))
            groups.setdefault((*seen, *methods), []).append(group.assign(label=str(variant)))
        for (widths, seeds, *names), parts in groups.items():
            both = pd.concat(parts)
            rows.append(
                [
                    facts.description,
                    "; ".join(dict.fromkeys(both["label"])),
                    "all" if set(names) == set(facts.methods) else "; ".join(facts.named(name) for name in names),
                    widths,
                    seeds,
                    str(int(both["n_runs"].sum())),
                    str(int(both["n_diverged"].sum())),
                ]
            )
    if not rows:
        return [text("All runs are primary ones: every setting but method, width, rate and seed is the task's own.")]
    caption = (
        "Cells beyond the primary ones: a setting differs from the task's own. T/4 is a run of a quarter of the steps, with "
        "warm-up and schedule of its own"
    )
    columns = ["Task", "What differs", "Methods", "Widths", "Seeds", "Runs", "Diverged"]
    return [table(caption, columns, rows, fill=[0, 1, 2])]


def _data(tasks: Sequence[Facts], manifests: Mapping[str, Mapping[str, Any]]) -> Block:
    rows = [
        [
            facts.description,
            manifests[facts.name]["source"],
            str(manifests[facts.name].get("version", MISSING)),
            str(manifests[facts.name].get("licence", MISSING)),
            ", ".join(f"{split} {thousands(n)}" for split, n in manifests[facts.name]["sizes"].items()),
        ]
        for facts in tasks
    ]
    columns = ["Task", "Source", "Version", "Licence", "Examples or tokens"]
    return table("Data", columns, rows, missing="not stated in the manifest", fill=[0, 1, 3])


def thousands(n: Any) -> str:
    """A count with thin spaces between thousands."""
    return f"{n:,}".replace(",", "\u202f") if isinstance(n, int) else number(n)


def _notes(tasks: Sequence[Facts]) -> list[Block]:
    """What a reader has to know of the data: the notes of the study file, and splits that are not the usual ones."""
    items = []
    for facts in tasks:
        said = [plain(facts.task["dataset"].get("note")), plain(facts.task.get("note")), facts.caveat]
        told = " ".join(sentence(part) for part in dict.fromkeys(said) if part.strip())
        if told:
            items.append(f"{facts.description}: {told}")
    return [points("To know of the data", items)] if items else []
