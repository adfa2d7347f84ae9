"""What is known of one task: its settings, its methods and its part of every table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from mufree.publish.figures import display_names, ordered
from mufree.publish.report.words import count, plain, span
from mufree.study.config import METHODS, Method

Record = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """One task: its name, its settings, its part of every table, and what each method of the study is and is called.

    `task` is the study file's entry, `caveat` a sentence for every caption or nothing, and `files` the figures that can be
    shown (None: all).
    """

    name: str
    task: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    roles: Mapping[str, Method]
    names: Mapping[str, str]
    caveat: str = ""
    files: frozenset[str] | None = None

    @property
    def description(self) -> str:
        """The task in words."""
        return str(self.task["description"])

    def named(self, method: str) -> str:
        """A method's name for readers; any other word as it is."""
        return self.names.get(method, method)

    def has(self, table: str) -> bool:
        """Whether a table has a row for this task."""
        return table in self.tables and not self.tables[table].empty

    def shows(self, figure: str) -> bool:
        """Whether a figure of this task can be shown."""
        return self.files is None or f"{self.name}.{figure}" in self.files

    def records(self, table: str, **where: Any) -> list[Record]:
        """Rows of a table in the methods' order of display, those with the given values; none if there is no such table."""
        if not self.has(table):
            return []
        frame = self.tables[table]
        for column, value in where.items():
            frame = frame[frame[column].eq(value)]
        found: list[Record] = [
            dict(zip(map(str, frame.columns), row, strict=True)) for row in frame.itertuples(index=False, name=None)
        ]
        if "method" not in frame:
            return found
        place = {method: i for i, method in enumerate(ordered(frame["method"]))}
        return sorted(found, key=lambda record: place[record["method"]])

    @cached_property
    def methods(self) -> list[str]:
        """Methods in the order of display."""
        return ordered(self.tables["optima"]["method"])

    @cached_property
    def widths(self) -> list[int]:
        """All widths, ascending."""
        return sorted(int(w) for w in self.tables["optima"]["width"].unique())

    @property
    def widest(self) -> int:
        """The largest width."""
        return self.widths[-1]

    @property
    def base(self) -> int:
        """The width at which SP and µP are the same network."""
        return int(self.tables["optima"]["base_width"].iloc[0])

    @cached_property
    def seeds(self) -> list[int]:
        """How many seeds the methods were judged by: one number, unless methods differ."""
        return sorted(int(n) for n in self.tables["optima"]["n_seeds"].unique())

    @property
    def seeds_words(self) -> str:
        """The number of seeds and its noun."""
        return count(self.seeds[0], "seed") if len(self.seeds) == 1 else f"{span(self.seeds)} seeds"

    @property
    def scope(self) -> str:
        """The task, its widths and its seeds in a line."""
        widths = f"widths {self.widths[0]}–{self.widest}" if len(self.widths) > 1 else f"width {self.widest}"
        return f"{self.description}, {widths}, {self.seeds_words}"

    @cached_property
    def cells(self) -> pd.DataFrame:
        """Runs by method, variant and width: the table `arms` if there is one, else the primary cells."""
        if self.has("arms"):
            arms = self.tables["arms"]
            return arms.assign(variant=arms["variant"].map(plain))
        return self.tables["optima"].assign(variant="")

    @property
    def diverged(self) -> int:
        """Runs that diverged."""
        return int(self.cells["n_diverged"].sum())

    @property
    def runs(self) -> int:
        """All runs."""
        return int(self.cells["n_runs"].sum())

    @property
    def error_bars(self) -> str:
        """What an interval of this task is."""
        if self.seeds == [1]:
            return "one seed, so there are no intervals"
        freedom = f", {count(self.seeds[0] - 1, 'degree')} of freedom" if len(self.seeds) == 1 else ""
        return f"intervals: 95 %, delete-one-seed jackknife with t quantile, {self.seeds_words}{freedom}"

    @property
    def where(self) -> str:
        """The end of a caption of something that has intervals."""
        return f"{self.description}; {self.error_bars}.{self.caveat}"

    @property
    def where_without_intervals(self) -> str:
        """The end of a caption of something that has none."""
        return f"{self.description}; {self.seeds_words}.{self.caveat}"


def roles_of(study: Mapping[str, Any], rows: pd.DataFrame | None, methods: Iterable[str]) -> dict[str, Method]:
    """What each method is: by the study file, or else by the columns of `rows`, and never by its name.

    Raises ValueError for a method that neither of them knows.
    """
    known = METHODS | {name: Method.model_validate(entry) for name, entry in study.get("methods", {}).items()}
    for name in set(methods) - set(known):
        runs = rows[rows["method"].eq(name)] if rows is not None else pd.DataFrame()
        if runs.empty:
            raise ValueError(f"method '{name}' is in the tables but not in the study; run `mufree metrics` again")
        columns = [field for field in Method.model_fields if field in runs]
        known[name] = Method.model_validate(runs.iloc[0][columns].to_dict())
    return {name: known[name] for name in ordered(methods)}


def names_of(roles: Mapping[str, Method]) -> dict[str, str]:
    """The methods' names for readers, as in the figures."""
    return display_names(pd.DataFrame([{"method": name, **role.model_dump()} for name, role in roles.items()]))
