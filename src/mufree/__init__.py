"""Schedule-free optimizers under the Maximal Update Parametrization (µP).

The optimizer library is `mufree.optim`; it needs torch, mup and schedulefree alone. The other wings are the study: `study` says
what is run and keeps it, `lab` runs it, `analysis` turns runs into numbers, `publish` turns numbers into pages.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mufree.optim import export, parametrize

__all__ = ["export", "parametrize"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # when asked for: torch takes a second to load, and plans and pages need none
        return getattr(import_module("mufree.optim"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
