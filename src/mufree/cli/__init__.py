"""The command `mufree`: what rules call, and a person can call by hand. Imports everything lazily; nothing imports it."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

from mufree.cli import analysing, coordcheck, paper, planning, sittings, training
from mufree.cli.inputs import UserError

Handler = Callable[[argparse.Namespace], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0, 1 for something wrong with data or files, 2 for wrong usage.

    75 is a sweep's that was asked to stop and is to be called again.
    """
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        arguments.handler(arguments)
    except UserError as error:
        print(f"mufree {arguments.command}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 0
    except OSError as error:  # a full disk, a missing file, no permission: finished runs are in the store
        print(f"mufree {arguments.command}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mufree", description="Schedule-free optimizers under µP: the study's commands."
    )
    parser.add_argument("--version", action="version", version=f"mufree {version('mufree')}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, handler: Handler, summary: str, example: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example:\n  mufree {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(handler=handler)
        return sub

    for module in (planning, training, coordcheck, analysing, paper, sittings):
        module.add_commands(command)
    return parser
