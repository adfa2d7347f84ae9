"""What commands share: the error that a caller can mend, and reading what they are given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mufree.study.reading import UserError as UserError

if TYPE_CHECKING:
    from mufree.study import config
    from mufree.study.hypotheses import Hypotheses


@contextmanager
def mendable(*errors: type[Exception], exit_code: int = 1) -> Iterator[None]:
    """Within it, these errors are the caller's to mend: they say what is wrong and what to do."""
    try:
        yield
    except errors as error:
        raise UserError(str(error), exit_code) from error


@contextmanager
def valid(what: str) -> Iterator[None]:
    """Within it, what pydantic finds wrong with `what` is the caller's to mend, and said where."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        from mufree.study.config import mistakes

        raise UserError(mistakes(what, error), 2) from error


def load_study(path: Path, part: int | None = None) -> config.Study:
    """Read and check a study file; of a `part`, its grids alone. Raises `UserError` that says what is wrong, where."""
    from mufree.study import yaml_files
    from mufree.study.plan import only_part

    study = yaml_files.load_study(path)
    return study if part is None else only_part(study, part)


def load_hypotheses(path: Path) -> Hypotheses:
    """Read and check the hypotheses. Raises `UserError` that says what is wrong, where."""
    from mufree.study import yaml_files
    from mufree.study.hypotheses import Hypotheses

    return yaml_files.read_model(path, Hypotheses)


def task_of(study: config.Study, name: str | None) -> config.Task:
    """A task of a study by its name. Raises `UserError` that names those there are."""
    if name not in study.tasks:
        raise UserError(f"Unknown task '{name}'. Known: {', '.join(study.tasks)}", 2)
    return study.tasks[name]
