"""What a command is given as a file, read and checked: the only place that opens tables (Parquet, CSV) and JSON.

Whatever is wrong with a file is one `RecordError`, which names it, what is wrong and the cure. Imports nothing before it reads.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class UserError(ValueError):
    """Something that the caller can mend: printed without a traceback. The message names the file or value, and the cure."""

    exit_code = 1

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        if exit_code is not None:
            self.exit_code = exit_code


class RecordError(UserError):
    """A file of the study is missing, damaged, or doesn't belong with the others."""


class FormatError(RecordError):
    """A file of another version of its format: whole, but not for this version of the package."""


FORMAT = 1
"""Version of the format of each kind of file. One that doesn't say has this; another says so, JSON as `format`, Parquet as
`mufree.format` in its metadata."""

MAKE = "Give another file, or run the workflow, which makes it"
CURE = "Give another file, or delete this one, and the workflow makes it anew; what is frozen, restore"
"""Snakemake holds a damaged file to be up to date; what is missing it makes by the same command."""

KEYS = frozenset({"id", "method", "run_id", "scenario", "series", "task"})
"""Columns of names, in whatever table: text, of which none is empty."""

WORDS = KEYS | {
    *("at", "average", "basin_censored", "claim", "code_digest", "constant", "cpu", "data_digest", "dataset"),
    *("denominator", "device", "divergence", "effect", "embedding_lr", "engine", "evidence", "expects", "flag"),
    *("kind", "layer", "left_out", "margin", "model", "module", "numerator", "optimizer", "parametrization", "points"),
    *("precision", "quantity", "reason", "rival", "row", "rule", "schedule", "scheduled", "scope", "sha256"),
    *("statistic", "status", "subject", "tasks", "timing", "unit", "variant", "verdict", "weight_decay_scaling"),
    "worst_module",
    *("equivalent", "flagged", "good", "passed", "planned", "post_hoc", "within_bounds"),
}
"""Columns of text and of truth values; all others hold numbers."""


def read_parquet(path: Path, columns: Collection[str], cure: str = CURE, *, alone: bool = False) -> pa.Table:
    """A Parquet file that has these columns, or these `alone`; `RecordError` unless all that is read of it is whole.

    Pages have checksums where `record.write_table` wrote them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _readable(path, "Parquet", cure, pa.ArrowException, KeyError), path.open("rb") as file:
        found = pq.ParquetFile(file, page_checksum_verification=True)
        table = found.read(columns=list(columns) if alone else None)
        table.validate(full=True)
        # What has no checksum is the footer; a wrong number of rows in it would cut the table short.
        groups = map(found.metadata.row_group, range(found.num_row_groups))
        if any(group.num_rows != group.column(0).num_values for group in groups):
            raise ValueError("its footer doesn't fit")
    check_metadata(path, table.schema.metadata)
    _has(path, columns, table.column_names, cure)
    for name in columns:
        column = table.column(name)
        if name in KEYS and column.null_count:
            raise RecordError(f"{path} has rows without {name}. {cure}")
        if not (pa.types.is_null(column.type) or _holds(column.type, words=name in WORDS)):
            raise RecordError(f"{path}: column {name} holds {column.type}. {cure}")
    return table


def check_metadata(path: Path, metadata: Mapping[bytes, bytes] | None) -> None:
    """Raise `FormatError` where the metadata of a Parquet file say that it is of another version of its format."""
    _check_format(path, (metadata or {}).get(b"mufree.format", b"%d" % FORMAT).decode(errors="replace"))


def _check_format(path: Path, found: object) -> None:
    if str(found) != str(FORMAT):
        raise FormatError(
            f"{path} has version {found} of its format, and this mufree reads version {FORMAT}. "
            "Use the mufree that wrote it, or make the file anew"
        )


def _holds(kind: pa.DataType, *, words: bool) -> bool:
    """Whether a column of this type holds words or truth values, or else numbers."""
    from pyarrow import types

    if words:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return bool(
            types.is_string(kind) or types.is_large_string(kind) or types.is_boolean(kind) or types.is_list(kind)
        )
    return bool(types.is_integer(kind) or types.is_floating(kind))


def read_frame(path: Path, columns: Collection[str]) -> pd.DataFrame:
    """`read_parquet` as a frame with a row at least."""
    frame: pd.DataFrame = read_parquet(path, columns).to_pandas(ignore_metadata=True)
    _not_empty(path, frame)
    return frame


def read_csv(path: Path, columns: Collection[str], *, empty: bool = False) -> pd.DataFrame:
    """A CSV table that has these columns, with numbers where they belong; and a row, unless it may be `empty`."""
    import pandas as pd

    odd = pd.errors.ParserWarning  # rows that are longer than the header
    with _readable(path, "CSV", CURE, odd), warnings.catch_warnings():
        warnings.simplefilter("error", odd)
        if not path.read_bytes().endswith(b"\n"):
            raise ValueError("its end is missing")
        frame = pd.read_csv(path, dtype=dict.fromkeys(KEYS, str), index_col=False)
    _has(path, columns, list(frame.columns), CURE)
    if not empty:
        _not_empty(path, frame)
    for name in columns:
        column = frame[name]
        wrong = column.isna() if name in KEYS else pd.Series(False, frame.index)
        if name not in WORDS:
            wrong = pd.to_numeric(column, errors="coerce").isna() & column.notna()
        if wrong.any():
            row = int(wrong.to_numpy().argmax())
            what = "nothing" if name in KEYS else f"'{column.iloc[row]}', which is no number"
            raise RecordError(f"{path}: row {row + 1} has {what} in column {name}. {CURE}")
    return frame


def read_json(path: Path, shape: Any, cure: str = CURE) -> dict[str, Any]:
    """An object in a JSON file that has what `shape` has: a type, a list of one shape, or a dict by key, ... being any key."""
    with _readable(path, "JSON", cure, RecursionError):
        plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(plain, dict):
        _check_format(path, plain.get("format", FORMAT))
    if (misfit := next(_misfits(plain, shape, ""), None)) is not None:
        raise RecordError(f"{path}: {misfit}. {cure}")
    return plain


def read_text(path: Path) -> str:
    """A text file in UTF-8."""
    with _readable(path, "text in UTF-8", "Save it as that"):
        return path.read_text(encoding="utf-8")


def _misfits(given: object, shape: Any, where: str) -> Iterator[str]:
    value: Any = given
    kind = shape if isinstance(shape, type) else type(shape)
    if not isinstance(given, (int, float) if kind is float else kind):
        yield f"{where or 'it'} is no {kind.__name__}"
    elif isinstance(shape, list):
        for place, inner in enumerate(value):
            yield from _misfits(inner, shape[0], f"{where}[{place}]")
    elif isinstance(shape, dict):
        for key in value if ... in shape else shape:
            if key not in value:
                yield f"{where + ': ' if where else ''}it has no {key}"
            else:
                yield from _misfits(value[key], shape.get(key, shape.get(...)), f"{where}.{key}" if where else key)


@contextmanager
def _readable(path: Path, what: str, cure: str, *errors: type[Exception]) -> Iterator[None]:
    """Within it, a file is read; that it can't be is a `RecordError`."""
    unreadable: tuple[type[Exception], ...] = (OSError, ValueError, *errors)
    try:
        yield
    except FileNotFoundError as error:
        raise RecordError(f"{path} is missing. {MAKE if cure == CURE else cure}") from error
    except unreadable as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RecordError(f"{path} can't be read as {what}: {' '.join(reason.split())}. {cure}") from error


def _has(path: Path, columns: Collection[str], found: Collection[str], cure: str) -> None:
    if missing := [name for name in columns if name not in found]:
        raise RecordError(f"{path} has no column {', '.join(missing)}. {cure}")


def _not_empty(path: Path, frame: pd.DataFrame) -> None:
    if frame.empty:
        raise RecordError(f"{path} has no row. {CURE}")
