"""How commands are declared: by functions, whose parameters are the arguments and whose docstrings the help."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import App, Parameter

from mufree.study.machine import Device

F = TypeVar("F", bound=Callable[..., None])

WIDTH = 100
"""Columns of a page of help."""
NAMES = 26
"""Columns in which an argument's name stands."""
AT_LEAST_ONE = Parameter(consume_multiple=1)
"""Of a list that can't be empty."""

Paths = Annotated[tuple[Path, ...], AT_LEAST_ONE]
StudyFile = Annotated[Path, Parameter(help="the study file")]
Sweeps = Annotated[str, Parameter(help="folder of a sweep, with {task}, {method}, {widths} and {seeds}")]
Store = Annotated[Path, Parameter(help="folder of the run store")]
Packs = Annotated[Path, Parameter(help="folder of the packs")]
Checks = Annotated[tuple[Path, ...], Parameter(help="raw coordinate checks, one a task")]
Part = Annotated[int | None, Parameter(help="a part of the study, by the number that its grids name")]
Kind = Annotated[Device, Parameter(help="kind of device")]


def _version() -> str:
    from importlib.metadata import version

    return f"mufree {version('mufree')}"


def _print_panel(console: Any, options: object, panel: Any) -> None:
    """Names on the left, what they mean beside them, as `cyclopts` calls it."""
    lines = [f"{panel.title.lower()}:"] if panel.entries else []
    for entry in panel.entries:
        said = [str(getattr(entry.description, "primary_renderable", entry.description))]
        said += [f"({', '.join(entry.choices)})"] if entry.choices else []
        said += ["(required)"] if entry.required else []
        said += [f"(default {entry.default})"] if entry.default not in (None, "None", "False", "()") else []
        beside = textwrap.wrap(" ".join(filter(None, said)), WIDTH - NAMES) or [""]
        names = f"  {', '.join(entry.display_labels_with_metavar):{NAMES - 4}}"
        lines += [names] if len(names) > NAMES - 2 else [f"{names}  {beside.pop(0)}"]
        lines += [" " * NAMES + line for line in beside]
    console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)


app = App(
    name="mufree",
    help="Schedule-free optimizers under µP: the study's commands.",
    version=_version,
    help_format="plaintext",
    help_formatter=_print_panel,
    # A list takes all values up to the next option, of an option given twice the last counts, and nothing has a --no-….
    default_parameter=Parameter(consume_multiple=True, negative=(), allow_repeating=True),
)


EXIT_CODES: dict[str, tuple[int, int]] = {}
"""Exit codes of commands for wrong usage and for files that can't be read or written, where they aren't 2 and 1."""


def command(example: str, exit_codes: tuple[int, int] = (2, 1)) -> Callable[[F], F]:
    """Makes a function the command of its name, and closes its help with an example of its arguments.

    `exit_codes` are those for wrong usage, and for files that can't be read or written.
    """

    def declare(function: F) -> F:
        name = function.__name__.replace("_", "-")
        EXIT_CODES[name] = exit_codes
        app.command(function, name=name, help_epilogue=f"example:\n  mufree {name} {example}", sort_key=len(list(app)))
        return function

    return declare
