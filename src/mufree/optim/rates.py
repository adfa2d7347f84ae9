"""µP's ratios between learning rates, kept while schedulers and loops write them.

µP splits what a user calls one group into several whose rates differ by `lr_multiplier`. Whoever then writes one number into
all of them (`OneCycleLR(max_lr=0.01)`, `for group in groups: group["lr"] = 0.01`), or mixes one number into each
(`CosineAnnealingLR(eta_min=0.001)`), gets the standard parametrization. So the groups of an optimizer made here notice writes.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

from torch import Tensor

from mufree.optim.groups import number


class Group(dict[str, Any]):
    """A parameter group that tells `Rates` when its learning rate is written, and otherwise a dict.

    It is copied and pickled as a plain dict, as it stands in state dicts, so that any other optimizer can read it.
    """

    rates: weakref.ref[Rates] | None = None
    """A user may hold on to a group longer than its optimizer lives, which has the rates."""
    place: int

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        if key == "lr" and self.rates is not None and (rates := self.rates()) is not None:
            rates.written(self.place)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As dict's, which would go past `__setitem__`."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __ior__(self, other: Any) -> Group:  # type: ignore[override, misc]
        self.update(other)
        return self

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)


class Rates:
    """Watches the learning rates of one optimizer's groups.

    Groups with one `split_from` are a family. When all of a family have been written equally often, their rates are looked
    at. In the ratio of their multipliers they stay as they are, to the bit. Otherwise the family follows one member: the
    number that was written into all of them is taken as the base rate; of several numbers, that of the member whose
    multiplier is nearest 1 holds. `settle` does the same before a step, whatever was written.

    Several families may have begun with one base rate. One number for all of them is taken as their base rate too; where
    they part otherwise, that may be meant, and `settle` only warns.

    Rates that are tensors are left alone, as a scheduler writes into them unseen; where one is put in, `settle` warns if the
    ratios are gone.
    """

    def __init__(self, groups: Sequence[Group], unseen: bool = False, warned: bool = False) -> None:
        """`unseen` says that the rates come from elsewhere and have to be looked at before the next step."""
        self._groups = groups
        self._families: dict[int, list[int]] = {}
        self._family_of = [self._families.setdefault(group["split_from"], []) for group in groups]
        self._writes = Counter(range(len(groups)) if unseen else ())
        self._asked: dict[int, Any] = {}
        self._in_ratio = in_ratio(groups)
        self._undone: list[str] = []
        self.warned = warned
        for place, group in enumerate(groups):
            self._family_of[place].append(place)
            # Were this held strongly, parameters would stay in memory until Python looks for cycles.
            group.rates, group.place = weakref.ref(self), place

    def written(self, place: int) -> None:
        """Take notice that a group's learning rate was written."""
        self._asked[place] = self._groups[place]["lr"]
        self._writes[place] += 1
        family = self._family_of[place]
        if len({self._writes[member] for member in family}) == 1:
            self._look(family, all_written=True)

    def settle(self) -> None:
        """Bring the rates that were written since the last step into µP's ratios; warn, once, if they weren't."""
        if not self._asked and not self._writes:
            return
        for family in self._families.values():
            if any(self._writes[place] for place in family):
                self._look(family, all_written=False)
        before, self._in_ratio = self._in_ratio, in_ratio(self._groups)
        if before and not self._in_ratio:
            self._look_at_all()
            self._in_ratio = in_ratio(self._groups)
        self._asked.clear()
        self._writes.clear()
        if self._undone and not self.warned:
            self.warned = True
            warnings.warn(self._undone[0], stacklevel=3)  # where step() was called
        self._undone.clear()

    def _look(self, family: list[int], all_written: bool) -> None:
        """Bring a family into ratio. Only if all were written, one number in all of them is a base rate."""
        for place in family:
            del self._writes[place]
        groups = [self._groups[place] for place in family]
        if not _watchable(groups) or in_ratio(groups):
            return
        if all_written and len({group["lr"] for group in groups}) == 1:
            base = groups[0]["lr"]
        else:
            leader = min(groups, key=lambda group: abs(math.log(group["lr_multiplier"])))
            base = leader["lr"] / leader["lr_multiplier"]
        self._follow(family, base)

    def _look_at_all(self) -> None:
        """The families had one base rate, and have it no longer."""
        groups = self._groups
        asked = set(self._asked.values()) if len(self._asked) == len(groups) else set()
        if len(asked) == 1 and _watchable(groups):
            self._follow(range(len(groups)), asked.pop())
        else:
            self._undone.append(
                "Groups that had one base rate have parted: their learning rates are "
                f"{_listed(group['lr'] for group in groups)}, and µP's multipliers "
                f"{_listed(group['lr_multiplier'] for group in groups)}. They are left so. If that isn't meant: {CURE} "
                "If it is, give each an 'lr' of its own when the optimizer is made."
            )

    def _follow(self, family: Sequence[int], base: float) -> None:
        groups = [self._groups[place] for place in family]
        written = _listed(self._asked.get(place, group["lr"]) for place, group in zip(family, groups, strict=True))
        for group in groups:
            dict.__setitem__(group, "lr", base * group["lr_multiplier"])
        self._undone.append(
            f"The learning rates written into groups {_listed(family)} were {written}. That undoes µP, whose multipliers there "
            f"are {_listed(group['lr_multiplier'] for group in groups)}: they were set to "
            f"{_listed(group['lr'] for group in groups)}. {CURE} Parameters that need a rate of their own need a group of "
            "their own when the optimizer is made."
        )


CURE = (
    "Use mufree.optim.set_lr(optimizer, lr), multiply by group['lr_multiplier'], or give a scheduler one number a group, "
    "as in max_lr=[group['lr'] for group in optimizer.param_groups]."
)


def in_ratio(groups: Sequence[dict[str, Any]]) -> bool:
    """Whether the groups' learning rates are to each other as their multipliers, up to rounding."""
    if not all(isinstance(group.get("lr"), Real | Tensor) for group in groups):
        return False
    rounding = 1e-9 if _watchable(groups) else 1e-6  # tensors of rates are float32
    first, *others = [(float(group["lr"]), group["lr_multiplier"]) for group in groups]
    return all(math.isclose(lr * first[1], first[0] * factor, rel_tol=rounding) for lr, factor in others)


def set_lr(optimizer: Any, lr: float, kind: str | None = None) -> None:
    """Give each of an optimizer's groups the learning rate `lr` times its µP multiplier.

    `lr` is the rate of the base width. Groups that were made with an `lr` of their own get the same as the others: to scale
    all rates by a factor, write `group["lr"] *= factor`. `kind` chooses between the two kinds of `MuMuon`'s groups, "muon"
    and "adamw", whose rates mean different things.

    Raises `ValueError` for groups without a multiplier, a `kind` that is missing or unknown, and an `lr` that is negative or
    not finite, before any is changed.
    """
    base = number("lr", lr)
    if any("lr_multiplier" not in group for group in optimizer.param_groups):
        raise ValueError("The optimizer's groups aren't µP's: they have no 'lr_multiplier'. Make it by MuAdamW, say.")
    kinds = {group.get("kind") for group in optimizer.param_groups}
    if kind not in kinds:
        known = ", ".join(f"kind={known!r}" for known in sorted(map(str, kinds)))
        raise ValueError(f"No group is of kind {kind!r}; here, it is one of: {known}.")
    for group in optimizer.param_groups:
        if group.get("kind") == kind:
            group["lr"] = base * group["lr_multiplier"]


def _watchable(groups: Sequence[dict[str, Any]]) -> bool:
    return all(isinstance(group.get("lr"), Real) for group in groups)


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(f"{value:g}" for value in values)
