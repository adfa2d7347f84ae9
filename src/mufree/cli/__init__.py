"""The command `mufree`: what rules call, and a person can call by hand. Imports everything lazily; nothing imports it."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Sequence
from inspect import BoundArguments
from typing import Any

from cyclopts import CycloptsError

# They declare commands, which help lists in this order.
from mufree.cli import planning, training, coordcheck, tune, analysing, paper, sittings  # noqa: F401  # isort: skip
from mufree.cli.commands import EXIT_CODES, app
from mufree.cli.inputs import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0, 1 for something wrong with data or files, 2 for wrong usage.

    75 is a sweep's that was asked to stop and is to be called again. `tune` has its own.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    command, arguments = _read(words)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        command(*arguments.args, **arguments.kwargs)
    except UserError as error:
        said, code = str(error), error.exit_code
    except BrokenPipeError:
        return 0
    except OSError as error:  # a full disk, a missing file, no permission: finished runs are in the store
        said, code = f"{error}. {_cure(error)}, and call the same again", EXIT_CODES[words[0]][1]
    except MemoryError:
        said = "out of memory. Free some memory, and call the same again: what is finished is kept"
        code = EXIT_CODES[words[0]][1]
    else:
        return 0
    print(f"mufree {words[0]}: {said}", file=sys.stderr)
    return code


def _cure(error: OSError) -> str:
    """What to do about an error of the system."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return "Free some space"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "Give the right to write there, or name another folder"
        case errno.EIO:
            return "Look after the disk"
        case _:
            return "Mend that"


def _read(words: list[str]) -> tuple[Any, BoundArguments]:
    """The function that is called, and its arguments. Exits where help is asked for, and with 2 where arguments are wrong."""
    asked = " ".join(["mufree", *words[:1]]) if words and words[0] in app else "mufree"
    try:
        if not words:
            raise CycloptsError("name a command")
        command, arguments, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        print(f"{asked}: {error}\n`{asked} --help` says more.", file=sys.stderr)
        raise SystemExit(EXIT_CODES.get(words[0] if words else "", (2, 1))[0]) from None
    if "console" in arguments.arguments:  # what prints help or the version
        from rich.console import Console

        arguments.arguments["console"] = Console(soft_wrap=True, highlight=False)
        command(*arguments.args, **arguments.kwargs)
        raise SystemExit(0)
    return command, arguments
