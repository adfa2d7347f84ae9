"""Do frozen runs come out again? A random share of them is trained from scratch and compared bit for bit.

On another kind of processor they can't, so that those are drawn from that were trained on one like this.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mufree.study.config import Study
from mufree.study.plan import NUMERICS, Run, expand
from mufree.study.reading import UserError, read_parquet
from mufree.study.yaml_files import read_model

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from mufree.study.record import Record

T = TypeVar("T")
log = logging.getLogger(__name__)


def chosen(frozen: Path, numerics: Sequence[int], share: float, seed: int, cpu: str) -> tuple[Study, list[Run]]:
    """A frozen study and a random share of its runs that were trained on the processor `cpu`, or of all if none was.

    Raises ValueError for a share that is none, and for other `numerics`.
    """
    from mufree.study import packs

    study = read_model(frozen / "study.yaml", Study)
    of = packs.processors(frozen / "runs")
    runs = expand(study)
    here = [run for run in runs if of.get(run.id) == cpu]
    if not here:
        log.warning(
            "No run of %s was trained on %s, but on %s: bits may well be others.",
            *(frozen, cpu, ", ".join(sorted(set(of.values())))),
        )
    found = sample(here or runs, share, seed)
    if list(numerics) != [NUMERICS]:
        raise UserError(f"{frozen} is of NUMERICS {numerics}, and this package has {NUMERICS}")
    return study, found


def compared(frozen: Path, study: Study, runs: list[Run], again: Iterable[Record]) -> dict[str, Any]:
    """What of `rows` and `curves` of a frozen study's runs came out differently; curves are rounded as frozen ones are."""
    from mufree.study import packs, record

    records = list(again)
    before = read_parquet(frozen / "rows.parquet", ["run_id"])
    curves = packs.curves(frozen / "runs", [run.id for run in runs])
    rows = record.collected_rows(runs, study.tasks, record.rows_table(each.row for each in records))
    return {
        "rows": differences(before, rows),
        "curves": differing_curves(curves, packs.rounded(record.concat_curves(each.curves for each in records))),
    }


def sample(items: Sequence[T], share: float, seed: int) -> list[T]:
    """A random share of the items, one at least, in their order; ValueError for a share that is not in (0, 1]."""
    if not 0 < share <= 1:
        raise UserError(f"share {share} is not above 0 and at most 1", 2)
    count = max(1, round(share * len(items)))
    return [items[place] for place in sorted(random.Random(seed).sample(range(len(items)), count))]


def differences(frozen: pa.Table, again: pa.Table) -> dict[str, list[str]]:
    """Columns in which a run's row differs, by run id; empty where all bits are the same.

    Both are rows of `record.COLLECTED_SCHEMA`; `again` may have fewer runs. Raises ValueError for a run that isn't frozen.
    """
    before, after = (table.to_pandas().set_index("run_id") for table in (frozen, again))
    if unknown := sorted(set(after.index) - set(before.index)):
        raise ValueError(f"run {unknown[0]} is not among the frozen ones")
    # The sources have changed since, and may have, as long as `numerics` is the same.
    columns = [name for name in after.columns if name in before.columns and name != "code_digest"]
    before, after = before.loc[after.index, columns], after[columns]
    differs = before.ne(after) & ~(before.isna() & after.isna())
    return {str(run): [name for name in columns if row[name]] for run, row in differs.iterrows() if row.any()}


def differing_curves(frozen: pa.Table, again: pa.Table) -> list[str]:
    """Runs whose curves differ from the frozen ones; both `packs.rounded`."""
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
