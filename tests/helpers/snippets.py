"""The blocks of code in a page of the documents, and a way to run them; as a script, in the folder that it is called in."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import torch

BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.py)(, continued)?\n")


def blocks(text: str) -> list[tuple[str, str]]:
    """Kind and content of each block."""
    return BLOCK.findall(text)


def run(page: Path) -> None:
    """Python blocks in one namespace, but for those that name a file, which they are put into; then lines with `mufree`.

    Files are written into the working folder, which has to be on `sys.path`. Raises what a block raises, and AssertionError
    for a command that fails.
    """
    from mufree.cli import main

    namespace: dict[str, object] = {"__name__": "__main__"}
    files: set[str] = set()
    torch.manual_seed(0)
    try:
        for kind, block in blocks(page.read_text(encoding="utf-8")):
            if kind == "sh":
                for line in block.splitlines():
                    if line.startswith("mufree "):
                        assert main(shlex.split(line, comments=True)[1:]) == 0, line
            elif name := FILE.match(block):
                files.add(name[1])
                sys.modules.pop(name[1].removesuffix(".py"), None)  # of another page's folder
                with Path(name[1]).open("a") as file:
                    file.write(block)
            else:
                exec(compile(block, str(page), "exec"), namespace)
    finally:
        for name in files:
            sys.modules.pop(name.removesuffix(".py"), None)


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    run(Path(sys.argv[1]))
