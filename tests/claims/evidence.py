"""The built numbers, and the frozen tables that they have to agree with."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Paper:
    """`numbers` is numbers.json, `built` its folder; all else is read from the frozen folder, past the package."""

    numbers: dict[str, Any]
    frozen: Path
    built: Path

    def shown(self, name: str) -> pd.DataFrame:
        """A table as the article shows it: all text."""
        return pd.read_csv(self.built / "tables" / f"{name}.csv", dtype=str)

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.frozen / "tables" / f"{name}.csv")

    @property
    def rows(self) -> pd.DataFrame:
        return pd.read_parquet(self.frozen / "rows.parquet")

    @property
    def follow_ups(self) -> Paper | None:
        """What was tried after the results, read in the same way; its own `numbers` are numbers.json's part on it."""
        folder = self.frozen.with_name("follow_ups")
        return Paper(self.numbers["follow_ups"], folder, self.built) if folder.exists() else None

    @property
    def primary(self) -> pd.DataFrame:
        rows = self.rows
        return rows[rows["variant"].fillna("") == ""]

    @property
    def manifest(self) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads((self.frozen / "MANIFEST.json").read_text())
        return plain

    @property
    def hypotheses(self) -> list[dict[str, Any]]:
        plain: list[dict[str, Any]] = yaml.safe_load((self.frozen / "hypotheses.yaml").read_text())["hypotheses"]
        return plain

    @property
    def tasks(self) -> list[str]:
        return sorted(self.rows["task"].unique())

    @property
    def least_seeds(self) -> int:
        """Of the four methods; a control may have fewer."""
        optima = self.table("optima")
        four = [f"{p}_{o}" for p in ("sp", "mup") for o in ("adamw", "schedulefree")]
        return int(optima[optima["method"].isin(four)]["n_seeds"].min())

    def said(self, claim: str) -> list[str]:
        sentences: list[str] = self.numbers["sentences"][claim]
        return sentences

    def about(self, claim: str, task: str) -> str:
        """The sentence of a claim that begins with a task."""
        (found,) = [line for line in self.said(claim) if line.startswith((f"{task}:", f"{task},"))]
        return found


def numbers_in(text: str) -> list[tuple[float, float]]:
    """Every number in a text, and half a unit of its last digit."""
    found = re.findall(r"[+−]?\d+(?:\.\d+)?", text)
    return [(float(x.replace("−", "-")), 0.5 * 10.0 ** -len(x.partition(".")[2])) for x in found]


def shows(text: str, value: float) -> bool:
    """Whether the text has this number, rounded, as it is or in per cent."""
    return any(abs(shown - v) <= half * 1.001 + 1e-9 for shown, half in numbers_in(text) for v in (value, 100 * value))
