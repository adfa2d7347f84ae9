"""What commands share: the error that a caller can mend, and reading what they are given."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mufree.study import config, yaml_files

if TYPE_CHECKING:
    import pandas as pd

    from mufree.lab.data import Prepared

Command = Callable[[str, Callable[[argparse.Namespace], None], str, str], argparse.ArgumentParser]
"""`command(name, handler, summary, example)` makes the parser of one command."""


class UserError(Exception):
    """Something that the caller can mend: printed without a traceback."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def load_study(path: Path) -> config.Study:
    """Read and check a study file. Raises `UserError` that says what is wrong, where."""
    try:
        return yaml_files.load_study(path)
    except yaml_files.StudyFileError as error:
        raise UserError(str(error), 2) from error


def load_data(folder: Path) -> Prepared:
    """The prepared data set, its checksums verified."""
    from mufree.lab import data

    try:
        return data.load(folder)
    except data.DataError as error:
        raise UserError(str(error)) from error


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """All CSV tables of a folder, by name."""
    import pandas as pd

    return {path.stem: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))}


def task_of(study: config.Study, name: str | None) -> config.Task:
    """A task of a study by its name. Raises `UserError` that names those there are."""
    if name not in study.tasks:
        raise UserError(f"Unknown task '{name}'. Known: {', '.join(study.tasks)}", 2)
    return study.tasks[name]
