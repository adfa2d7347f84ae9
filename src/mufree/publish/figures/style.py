"""What a method is called, and how a method, a width and a layer type look, in every figure.

Colours are Okabe & Ito's (2008), which stay apart for colour-blind readers; SP is warm and µP is cool. Methods beyond the four
take the rest of theirs and some of Tol's (2021). Each method also has a marker of its own, so that figures read in grey.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from pandas import DataFrame

from mufree.analysis.tables.cases import Role, ordered
from mufree.study.config import METHODS

MAIN_METHODS = 6
"""A figure that would be crowded by more methods than this shows the four of the study, and says which it leaves out."""

WORDS = {"sp": "SP", "mup": "µP", "adamw": "AdamW", "radam": "RAdam", "sgd": "SGD", "wsd": "WSD"}
"""What a role's parts are called; others are called what they are."""


@dataclass(frozen=True)
class MethodStyle:
    """The look of a method: display name, colour, marker, line style."""

    name: str
    colour: Any
    marker: str
    line: Any

    @property
    def drawn(self) -> dict[str, Any]:
        """As `plot` and `Line2D` take it."""
        return {"color": self.colour, "marker": self.marker, "ls": self.line, "label": self.name}

    @property
    def parts(self) -> list[str]:
        """The name, split after the parametrization if it has one, as in `SP · SGD + cosine`."""
        return self.name.split(" · ", 1)


Styles = Mapping[Any, MethodStyle]
"""Methods, or what else has lines, in the order of display."""

_LOOKS = {
    "sp_adamw": ("#D55E00", "s", "--"),
    "sp_schedulefree": ("#E69F00", "D", "-."),
    "mup_adamw": ("#0072B2", "o", (0, (1, 1))),
    "mup_schedulefree": ("#009E73", "^", "-"),
}
_OTHERS = [
    ("#CC79A7", "v", (0, (5, 1))),
    ("#56B4E9", "P", (0, (3, 1, 1, 1))),
    ("#000000", "X", "--"),
    ("#7F7F7F", "*", "-"),
    ("#882255", "<", (0, (4, 1, 1, 1))),
    ("#999933", ">", (0, (2, 1))),
    ("#332288", "p", (0, (6, 1, 2, 1))),
    ("#8C564B", "h", (0, (1, 1.5))),
]
LAYER_COLOURS = {
    "embedding": "#E69F00",
    "hidden": "#0072B2",
    "readout": "#CC79A7",
    "norm": "#7F7F7F",
    "bias": "#56B4E9",
}
"""Layer types, in the order in which they are shown."""


def role_name(role: Role) -> str:
    """A readable name for a method of this role, the same for all methods that share it."""
    parametrization, base, schedule = (WORDS.get(x, x) for x in (role.parametrization, role.family, role.schedule))
    scaled = role.embedding_lr == "times_width"
    words = f"ScheduleFree {base}" if role.schedule_free else f"{base} + {schedule}"
    if scaled and schedule == "cosine" and not role.schedule_free:
        words = base  # a control of the plain method: what differs is said next
    words += " + EMA" * (role.average == "ema") + ", embedding rate × width" * scaled
    return f"{parametrization} · {words}"


DISPLAY_NAMES = {name: role_name(Role(**method.model_dump())) for name, method in METHODS.items()}
"""The canonical methods, in the order in which they are always shown."""


def roles_of(rows: DataFrame) -> dict[str, Role]:
    """The role of each method of `rows`, from its columns; none where `rows` lacks these."""
    if not {"method", *Role._fields} <= set(rows):
        return {}
    first = rows.drop_duplicates("method")[["method", *Role._fields]].astype(str)
    return {method: Role(*parts) for method, *parts in first.itertuples(index=False)}


def display_names(rows: DataFrame) -> dict[str, str]:
    """The name of each method of `rows` from its role. Where two have the same role, the second has its own name besides."""
    names: dict[str, str] = {}
    roles = roles_of(rows)
    for method in ordered(roles):
        name = role_name(roles[method])
        names[method] = f"{name} ({method})" if name in names.values() else name
    return names


def method_styles(methods: Iterable[str], rows: DataFrame | None = None) -> dict[str, MethodStyle]:
    """The look of each method. Give all methods of a study, so that an extra one looks the same for every task.

    `rows` are the study's runs, which say what an extra method is. No two of the first 64 extra ones share colour and marker.
    """
    names = ordered(methods)
    known = {m: m.replace("adamw", "AdamW").replace("schedulefree", "ScheduleFree").replace("_", " ") for m in names}
    known |= DISPLAY_NAMES | (display_names(rows) if rows is not None else {})
    looks: dict[str, tuple[str, str, Any]] = {**_LOOKS}
    for i, method in enumerate(m for m in names if m not in looks):
        turn, place = divmod(i, len(_OTHERS))
        colour, _, line = _OTHERS[place]
        looks[method] = (colour, _OTHERS[(place + turn) % len(_OTHERS)][1], line)
    return {m: MethodStyle(known[m], *looks[m]) for m in names}


def present(styles: Styles, frame: DataFrame) -> list[str]:
    """The methods of `frame`, in the order of display."""
    found = set(frame["method"])
    return [method for method in styles if method in found]


def at_several_widths(styles: Styles, frame: DataFrame) -> tuple[list[str], list[str]]:
    """The methods of `frame` that are at several widths, or all if none is, and the others."""
    methods, widths = present(styles, frame), frame.groupby("method")["width"].nunique()
    kept = [m for m in methods if widths[m] > 1] or methods
    return kept, [m for m in methods if m not in kept]


def main_methods(methods: Sequence[str]) -> tuple[list[str], list[str]]:
    """The methods that a figure has room for, and those it leaves out: of more than six, the canonical ones stay."""
    if len(methods) <= MAIN_METHODS:
        return list(methods), []
    kept = [m for m in methods if m in DISPLAY_NAMES] or list(methods[:4])
    return kept, [m for m in methods if m not in kept]


def left_out(styles: Styles, methods: Sequence[str], why: str = "") -> str:
    """The words that say which methods a figure doesn't show; none if it shows all."""
    names = "; ".join(styles[m].name for m in methods)
    return f"Not shown{f' ({why})' if why else ''}: {names}." if methods else ""


def width_styles(widths: Sequence[int]) -> dict[int, MethodStyle]:
    """The look of each width: viridis from dark to light, so that the order shows in grey as well."""
    colours: Any = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.8, max(len(widths), 2)))
    markers = "osD^vPX*"
    return {w: MethodStyle(f"width {w}", tuple(colours[i]), markers[i % 8], "-") for i, w in enumerate(sorted(widths))}
