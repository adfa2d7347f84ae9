"""What Python runs at its start in a checkout: each command `mufree` leaves the names of the modules that it has loaded."""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path


def note() -> None:
    folder = Path(__file__).parents[1] / "loaded" / sys.argv[1]
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in sys.modules if name.partition(".")[0] == "mufree"]
    (folder / str(os.getpid())).write_text("\n".join(names))


if Path(sys.argv[0]).name == "mufree":
    atexit.register(note)
