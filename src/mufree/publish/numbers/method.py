"""How it was measured, and what that is worth: sizes, scope, seeds, controls, the calibration of the intervals."""

from __future__ import annotations

from mufree.publish.frozen import Frozen
from mufree.publish.numbers.words import design
from mufree.publish.report.words import count, gates, listing, number, plain


def size(frozen: Frozen) -> str:
    """How many runs it is, and what they took."""
    runs = len(frozen.runs)
    diverged = int(frozen.runs["status"].eq("diverged").sum())
    methods = count(frozen.runs["method"].nunique(), "method")
    hours = number(frozen.manifest["core_hours"], 1)
    return (
        f"We report {count(runs, 'run')} of {methods} on {count(len(frozen.tasks), 'task')}; {diverged} of the runs diverged. "
        f"They took {hours} core-hours."
    )


def negative_control(frozen: Frozen) -> list[str]:
    """In how many pairs of runs SP and µP are the same at base width, where they have to be."""
    out = []
    for task in frozen.tasks:
        rows = frozen.records("control", task=task)
        pairs, equal = sum(int(row["n_pairs"]) for row in rows), sum(int(row["n_equal"]) for row in rows)
        if not pairs:
            out.append(f"{task}: not checked.")
        elif equal == pairs:
            out.append(f"{task}: the same losses, bit for bit, in all {pairs} pairs of runs.")
        else:
            out.append(
                f"{task}: the same losses in only {equal} of {pairs} pairs of runs; the implementation is in doubt."
            )
    return out


def coordinate_check(frozen: Frozen) -> list[str]:
    """How many checks, at y and at x, pass by parametrization, and whether that is as it has to be."""
    parametrization = frozen.runs.drop_duplicates("method").set_index("method")["parametrization"]
    out = []
    for task in frozen.tasks:
        rows = frozen.records("coordcheck_verdict", task=task)
        mup, sp = (
            [str(row["passed"]) == "True" for row in rows if parametrization[row["method"]] == kind]
            for kind in ("mup", "sp")
        )
        text = f"{task}: µP passes {sum(mup)} of {len(mup)} checks, SP passes {sum(sp)} of {len(sp)}"
        of_mup = gates([row for row in rows if parametrization[row["method"]] == "mup"])
        failed, undecided = (
            listing([frozen.named(m) for m in of_mup if of_mup[m] == outcome]) for outcome in ("failed", "undecided")
        )
        doubts = [
            *([f"what is said of {failed} here is in doubt"] if failed else []),
            *([f"for {undecided} its seeds are too few to decide, no slope fails surely"] if undecided else []),
            *(["the check does not tell µP from SP"] if any(sp) else []),
        ]
        out.append(f"{text}; {' and '.join(doubts) or 'as it has to be'}.")
    return out


CALIBRATED = {
    "drift": "drift",
    "did_drift": "interaction of the drifts",
    "regret_held": "regret, as reported",
    "regret_cf": "regret with both rates chosen anew, not reported",
    "regret_cf_expected": "the same, as what tuning with one seed fewer costs on average, not reported",
}
"""What the calibration's statistics are called, those that the study reports first."""


def calibration(frozen: Frozen) -> list[str]:
    """For each statistic, how often its nominal 95 % interval covers the truth with as many seeds as the study has."""
    if frozen.calibration is None:
        return ["No simulation of the intervals is part of this frozen study."]
    least = frozen.least_seeds
    table = frozen.calibration[frozen.calibration["n_seeds"].eq(least)]
    if table.empty:
        return [f"The intervals were not simulated for {count(least, 'seed')}."]
    out = []
    for name in [each for each in CALIBRATED if each in set(table["statistic"])]:
        rows = table[table["statistic"].eq(name)]
        low, high = (number(100 * bound, 1) for bound in (rows["coverage"].min(), rows["coverage"].max()))
        fine = int(rows["within_bounds"].astype(str).eq("True").sum())
        out.append(
            f"{CALIBRATED[name]}, {count(least, 'seed')}: coverage {low} to {high} % over "
            f"{count(len(rows), 'scenario')}, of which {fine} {'is' if fine == 1 else 'are'} as wanted."
        )
    return out


def scope(frozen: Frozen, task: str) -> str:
    """What a task is, how far it was tried, and what its note says of it."""
    return f"{task}: {design(frozen, task)} {plain(frozen.study['tasks'][task].get('note'))}".rstrip()


def seeds(frozen: Frozen) -> str:
    """Whether there are as many seeds as the study's rules ask for."""
    least = frozen.least_seeds
    wanted = 5
    if least < wanted:
        return f"With {count(least, 'seed')} the study is exploratory by its own rules, which ask for {wanted}."
    return f"Every primary cell of the four methods has at least {least} seeds, as the study's rules ask."
