"""Do frozen runs come out again? A random share of them is trained from scratch and compared bit for bit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

T = TypeVar("T")

OF_THE_CODE = ("code_digest",)
"""Columns that may differ: the sources have changed since, and may have, as long as `numerics` is the same."""


def sample(items: Sequence[T], share: float, seed: int) -> list[T]:
    """A random share of the items, one at least, in their order; ValueError for a share that is not in (0, 1]."""
    if not 0 < share <= 1:
        raise ValueError(f"share {share} is not above 0 and at most 1")
    count = max(1, round(share * len(items)))
    return [items[place] for place in sorted(random.Random(seed).sample(range(len(items)), count))]


def differences(frozen: pa.Table, again: pa.Table) -> dict[str, list[str]]:
    """Columns in which a run's row differs, by run id; empty where all bits are the same.

    Both are rows of `record.COLLECTED_SCHEMA`; `again` may have fewer runs. Raises ValueError for a run that isn't frozen.
    """
    before, after = (table.to_pandas().set_index("run_id") for table in (frozen, again))
    if unknown := sorted(set(after.index) - set(before.index)):
        raise ValueError(f"run {unknown[0]} is not among the frozen ones")
    columns = [name for name in after.columns if name in before.columns and name not in OF_THE_CODE]
    before = before.loc[after.index]
    return {
        str(run): odd
        for run in after.index
        if (odd := [name for name in columns if not _same(before.at[run, name], after.at[run, name])])
    }


def differing_curves(frozen: pa.Table, again: pa.Table) -> list[str]:
    """Runs whose curves differ from the frozen ones; both thinned by `freeze.thin`."""
    keys = ["run_id", "series", "layer", "step"]
    before, after = (_curves(table, keys) for table in (frozen, again))
    odd = []
    for run, mine in after.groupby("run_id", observed=True, sort=True):
        theirs = before[before["run_id"] == run]
        if not theirs.reset_index(drop=True).equals(mine.reset_index(drop=True)):
            odd.append(str(run))
    return odd


def _curves(table: pa.Table, keys: list[str]) -> pd.DataFrame:
    frame = table.to_pandas().astype(dict.fromkeys(keys[:3], str))
    sorted_: pd.DataFrame = frame.sort_values(keys, ignore_index=True)[[*keys, "value"]]
    return sorted_


def _same(one: object, other: object) -> bool:
    return bool(one == other) or (one != one and other != other) or (one is None and other is None)
