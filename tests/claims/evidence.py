"""The frozen tables that statements are tested against, read past the package; and ways to turn them round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

ROOT = Path(__file__).parents[2]
OPTIMIZERS = ("schedulefree", "adamw")
ENDS = ("low", "high", "low90", "high90")


@dataclass(frozen=True)
class Evidence:
    """`estimates` are of all studies, whose tasks have names of their own; the rest is the first study's, or said to be the
    second's: `again`.
    """

    estimates: pd.DataFrame
    tasks: list[str]
    control: pd.DataFrame
    checks: pd.DataFrame
    stability: pd.DataFrame
    hypotheses: list[dict[str, Any]]
    hypotheses_again: list[dict[str, Any]]
    control_again: pd.DataFrame

    @classmethod
    def of(cls, *folders: str) -> Evidence:
        main, *_ = (ROOT / folder for folder in folders)
        tables = {
            name: pd.read_csv(main / f"tables/{name}.csv") for name in ("control", "coordcheck_verdict", "stability")
        }
        return cls(
            estimates=pd.concat([pd.read_csv(ROOT / folder / "tables/estimates.csv") for folder in folders]),
            tasks=sorted(pd.read_parquet(main / "rows.parquet", columns=["task"])["task"].unique()),
            control=tables["control"],
            checks=tables["coordcheck_verdict"],
            stability=tables["stability"],
            hypotheses=yaml.safe_load((main / "hypotheses.yaml").read_text())["hypotheses"],
            hypotheses_again=yaml.safe_load((ROOT / folders[1] / "hypotheses.yaml").read_text())["hypotheses"],
            control_again=pd.read_csv(ROOT / folders[1] / "tables/control.csv"),
        )

    @property
    def main(self) -> pd.DataFrame:
        """The judged study's own estimates."""
        return self.estimates[self.estimates["task"].isin(self.tasks)]

    @property
    def again(self) -> pd.DataFrame:
        """The second judged study's own estimates."""
        return self.estimates[self.estimates["task"].isin(self.control_again["task"])]

    def all(self, statistic: str, subject: str) -> pd.DataFrame:
        """A statistic in each task of the judged study, at each task's largest width where it has one."""
        rows = self.main.query("statistic == @statistic and subject == @subject").sort_values("width")
        return rows.groupby("task").tail(1).set_index("task")

    def one(self, task: str, subject: str, statistic: str, width: int | None = None) -> pd.Series[Any]:
        rows = self.estimates.query("task == @task and statistic == @statistic and subject == @subject")
        (row,) = [row for _, row in rows.iterrows() if width is None or row["width"] == width]
        return row

    def widest(self, task: str, subject: str, statistic: str) -> pd.Series[Any]:
        """A statistic at the largest width where it is known."""
        rows = self.estimates.query("task == @task and statistic == @statistic and subject == @subject")
        return rows.sort_values("width").iloc[-1]


Change = Callable[[Evidence], Evidence]


def _estimates(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Change:
    return lambda evidence: replace(evidence, estimates=change(evidence.estimates.copy()))


def _flip(table: pd.DataFrame) -> pd.DataFrame:
    for low, high in (("low", "high"), ("low90", "high90")):
        table[low], table[high] = -table[high], -table[low].copy()
    return table.assign(estimate=-table["estimate"])


def _swap(table: pd.DataFrame) -> pd.DataFrame:
    names = {f"{a}_{o}": f"{b}_{o}" for a, b in (("sp", "mup"), ("mup", "sp")) for o in OPTIMIZERS}
    return table.assign(subject=table["subject"].replace(names))


def _shift(table: pd.DataFrame, by: float) -> pd.DataFrame:
    for column in ("estimate", *ENDS):
        table[column] += by
    return table


def _sharpen(table: pd.DataFrame) -> pd.DataFrame:
    for column in ENDS:
        table[column] = table["estimate"] + (table[column] - table["estimate"]) / 50
    return table.assign(se=table["se"] / 50)


flipped = _estimates(_flip)
"""Every estimate with the other sign."""
swapped = _estimates(_swap)
"""SP and µP in each other's place."""
shifted = _estimates(lambda table: _shift(table, 1.0))
"""Every estimate larger by one."""
lowered = _estimates(lambda table: _shift(table, -1.0))
"""Every estimate smaller by one."""
reasonless = _estimates(lambda table: table.assign(reason=""))
"""What can't be estimated has no reason."""
sharpened = _estimates(_sharpen)
"""Every interval a fiftieth as wide."""


def unequal(evidence: Evidence) -> Evidence:
    """One pair of the negative control that differs."""
    control = evidence.control.copy()
    control.loc[0, "n_equal"] -= 1
    return replace(evidence, control=control)


def mup_fails(evidence: Evidence) -> Evidence:
    """A coordinate check of µP that surely fails."""
    checks = evidence.checks.copy()
    of_mup = checks["method"].str.startswith("mup")
    checks.loc[checks[of_mup].index[0], ["passed", "n_sure"]] = [False, 3]
    return replace(evidence, checks=checks)


def divergence_swapped(evidence: Evidence) -> Evidence:
    """SP and µP in each other's place where runs are counted."""
    swapped = _swap(evidence.stability.rename(columns={"method": "subject"}))
    return replace(evidence, stability=swapped.rename(columns={"subject": "method"}))
