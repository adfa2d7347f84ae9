"""What a user gives to have a model tuned: functions that make the model and its batches, and the loss."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from mufree.lab.coordcheck.calls import CheckError, call_model, default_loss, made, raised_by, seeded
from mufree.lab.coordcheck.own_file import function_of, load_file
from mufree.lab.parametrization import SEED_STREAM
from mufree.lab.train.evaluate import Objective, count_of
from mufree.lab.tune.randomness import seeded_apart
from mufree.optim import growth_of, parametrize

_WARNS = "tell parametrize"
"""What every warning of `parametrize` asks for."""
MOST_VALID = 10_000
"""Validation batches; a function that gives more has no end, as a rule."""


@dataclass(frozen=True)
class Functions:
    """A model of one's own, and what it learns from. Whatever one of them raises is a `UserFunctionError` that names it."""

    name: str
    make_model: Callable[..., Any]
    """Of (width) or (width, seed): the model as it is, or one that has base shapes."""
    train_batches: Callable[[int], Iterable[Any]]
    """Of a seed: training batches, without end."""
    valid_batches: Callable[[], Iterable[Any]]
    """The batches that decide, always the same."""
    loss: Callable[[nn.Module, Any], Any]
    sources: str = ""
    """Their own, or the text of the files in which they stand."""

    @classmethod
    def of(
        cls,
        make_model: Callable[..., Any],
        train_batches: Callable[[int], Iterable[Any]],
        valid_batches: Callable[[], Iterable[Any]],
        loss: Callable[[nn.Module, Any], Any] | None = None,
        name: str = "model",
    ) -> Functions:
        """Functions as they are given to Python. Raises `CheckError` for a `make_model` that takes no width."""
        seeded(make_model)
        given = [make_model, train_batches, valid_batches, *([loss] if loss else [])]
        sources = "\n".join(dict.fromkeys(_source_of(function) for function in given))
        return cls(slug(name), make_model, train_batches, valid_batches, loss or batch_loss, sources)

    @classmethod
    def from_file(cls, path: Path) -> Functions:
        """Those of a Python file. Raises `CheckError` for a file that can't be imported or lacks one of them."""
        before = set(sys.modules)
        module = load_file(path)
        found = cls.of(
            function_of(module, "make_model", "(width) or (width, seed), which returns the model"),
            function_of(module, "train_batches", "(seed), which gives batches without end"),
            function_of(module, "valid_batches", "(), which gives the batches that decide"),
            function_of(module, "loss", "(model, batch)") if hasattr(module, "loss") else None,
            name=path.stem,
        )
        beside = [path, *_imported_beside(path, set(sys.modules) - before)]
        return replace(found, sources="\n".join(p.read_text("utf-8", "replace") for p in beside))

    # --- the model ----------------------------------------------------------------------------------------------------

    def model(self, width: int, base_width: int, seed: int, parametrization: str) -> nn.Module:
        """The model of a seed in a parametrization, on the CPU.

        A model that comes with base shapes is left as it is. Raises `CheckError` where these say that another width is the
        base, or where it is asked for in SP.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=f"[\\s\\S]*{_WARNS}")  # `warnings_of` has it
            return self._model(width, base_width, seed, parametrization)

    def _model(self, width: int, base_width: int, seed: int, parametrization: str) -> nn.Module:
        model = self._made(width, seed)
        if not all(hasattr(parameter, "infshape") for parameter in model.parameters()):
            make = functools.partial(self._made, seed=seed)
            with raised_by("make_model"):
                return parametrize(make, width, base_width, parametrization, seed=seed ^ SEED_STREAM)  # type: ignore[arg-type]
        if parametrization == "sp":
            raise CheckError("make_model gives a model with base shapes; to try SP, let it give the plain model")
        if width == base_width and any(growth_of(parameter) != (1.0, 1.0) for parameter in model.parameters()):
            raise CheckError(
                f"make_model gives a model with base shapes whose base width isn't {base_width}; give that width"
            )
        return model

    def warnings_of(self, width: int, base_width: int) -> tuple[str, ...]:
        """What `parametrize` can't see to, such as attention whose scale it doesn't find: none for a model with base shapes."""
        cpu = torch.device("cpu")
        with torch.random.fork_rng(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = self._model(width, base_width, 0, "mup")
            self.checked_loss(model, next(self.batches(0, cpu)))  # some of it is seen in a forward pass
        return tuple(dict.fromkeys(said for each in caught if _WARNS in (said := str(each.message))))

    def check_widths(self, base_width: int, widths: Iterable[int]) -> None:
        """Raises `CheckError` for two widths at which the model is the same, `UserFunctionError` where it can't be made."""
        sizes: dict[tuple[Any, ...], int] = {}
        for width in (base_width, *widths):
            model = self._made(width, 0)
            if not any(parameter.requires_grad for parameter in model.parameters()):
                raise CheckError("the model has no parameter that is trained")
            shapes = tuple(tuple(parameter.shape) for parameter in model.parameters())
            if shapes in sizes:
                raise CheckError(
                    f"make_model gives the same shapes at widths {sizes[shapes]} and {width}: it doesn't use its width, or "
                    "rounds it"
                )
            sizes[shapes] = width

    def _made(self, width: int, seed: int) -> nn.Module:
        # Weights of a stream of their own: batches may be drawn by a generator of the very same seed.
        return made(seeded(self.make_model, SEED_STREAM), width, seed)

    # --- what it learns from ------------------------------------------------------------------------------------------

    def batches(self, seed: int, device: torch.device, skip: int = 0) -> Iterator[Any]:
        """Training batches of a seed, from the one after so many on.

        What can be gone through again, such as a list or a data loader, is; a generator that ends is a `CheckError`.
        """
        with raised_by(f"train_batches({seed})"):
            made = self.train_batches(seed)
            once = isinstance(made, Iterator)
        given = 0
        while True:
            before, source = given, iter(made)
            while True:
                with raised_by(f"train_batches({seed})"):
                    batch = next(source, source)
                if batch is source:
                    break
                given += 1
                if given > skip:
                    yield moved(batch, device)
            if once or given == before:
                raise CheckError(
                    f"train_batches({seed}) ended after {given} batches; let it go on for ever (`while True:`), or return a "
                    "list or a data loader, which is gone through again and again"
                )

    def valid(self, device: torch.device) -> list[Any]:
        """The validation batches. Raises `CheckError` for none, and for more than any validation has."""
        with raised_by("valid_batches"):
            found = list(islice(self.valid_batches(), MOST_VALID + 1))
        if not found:
            raise CheckError("valid_batches() gives no batch")
        if len(found) > MOST_VALID:
            raise CheckError(f"valid_batches() gives more than {MOST_VALID} batches; it must come to an end")
        return [moved(batch, device) for batch in found]

    def checked_loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss. Raises `CheckError` where it is no tensor of one number."""
        with raised_by("the loss"):
            found = self.loss(model, batch)
        if not isinstance(found, Tensor) or found.numel() != 1:
            what = f"a tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise CheckError(f"the loss must be a tensor of one number, and is {what}")
        return found.reshape(())

    @property
    def objective(self) -> Objective:
        """What trials are trained by and judged by."""
        return Objective(self.checked_loss, self._judged, weight_of)

    def _judged(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """The loss, and NaN for how many answers are right: what an answer is isn't known."""
        loss = self.checked_loss(model, batch)
        return loss, torch.full_like(loss, torch.nan)

    def _first_batches(self) -> list[Any]:
        """A training batch, and those of validation, as a trial of seed 0 has them."""
        cpu = torch.device("cpu")
        with seeded_apart(0):
            return [next(self.batches(0, cpu)), *self.valid(cpu)]

    def fingerprint(self, base_width: int) -> str:
        """Digest of the sources and of what the functions give: validation, a first batch, the model at base width."""
        sha = hashlib.sha256(self.sources.encode())
        given = self._first_batches()
        digest = _digest(given)
        if digest != _digest(self._first_batches()):
            raise CheckError(
                "train_batches(0) or valid_batches() gives other batches each time that it is called: draw them from the seed, "
                "so that trials can be compared and gone on with"
            )
        sha.update(digest.encode())
        with torch.random.fork_rng():
            model = self._made(base_width, 0)
        sha.update(_digest(dict(model.state_dict())).encode())
        # What the loss does may be written elsewhere. Rounded, since threads sum in another order.
        with seeded_apart(0):
            loss = self.checked_loss(model, given[0])
            with raised_by("the loss's backward pass"):
                loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        sha.update(f"{float(loss.detach()):.5g} {float(norm):.4g}".encode())
        sha.update(re.sub(r"0x[0-9a-f]+", "", repr(model)).encode())
        classes = sorted(
            {type(module) for module in model.modules()}, key=lambda cls: f"{cls.__module__}.{cls.__name__}"
        )
        sha.update("\n".join(_source_of(cls) for cls in classes).encode())
        return sha.hexdigest()[:16]


def batch_loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy of a model on (inputs, targets), or what it says is its loss on a batch that is a dict.

    Raises `CheckError` for other batches, and for a model that gives no loss for a dict.
    """
    if isinstance(batch, Mapping):
        found = getattr(call_model(model, batch), "loss", None)
        if found is None:
            raise CheckError("the model gives no loss for a batch that is a dict; define loss(model, batch)")
        return found  # type: ignore[no-any-return]
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise CheckError(
            f"a batch is {type(batch).__name__}, and must be (inputs, targets) or a dict; define loss(model, batch)"
        )
    inputs, targets = batch
    return default_loss(call_model(model, inputs), targets)


def moved(batch: Any, device: torch.device) -> Any:
    """A batch with all its tensors on a device."""
    plain = dict(batch) if isinstance(batch, Mapping) else batch
    return trees.tree_map(lambda part: part.to(device) if hasattr(part, "to") else part, plain)


def slug(name: str) -> str:
    """A name as names of files have it: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "model"


def weight_of(batch: Any) -> int:
    """How much a batch counts in a mean: its number of targets where it is (inputs, targets), else 1."""
    pair = isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[1], Tensor)
    return count_of(batch) if pair else 1


def _digest(value: Any) -> str:
    """SHA-256 of a batch or of weights."""
    sha = hashlib.sha256()
    for key, leaf in trees.tree_flatten_with_path(value)[0]:
        sha.update(str(key).encode())
        if isinstance(leaf, Tensor):
            plain = leaf.detach().cpu().contiguous()
            sha.update(f"{plain.dtype}{list(plain.shape)}".encode())
            sha.update(plain.flatten().view(torch.uint8).numpy().tobytes())
        else:
            sha.update(re.sub(r"0x[0-9a-f]+", "", repr(leaf)).encode())
    return sha.hexdigest()


def _source_of(function: Any) -> str:
    """Source of a function or class, where it can be had."""
    while isinstance(function, functools.partial):
        function = function.func
    plain = inspect.unwrap(function)
    target = plain if inspect.isroutine(plain) or inspect.isclass(plain) else type(plain)
    try:
        return inspect.getsource(target)
    except (TypeError, OSError):
        return ""


def _imported_beside(path: Path, names: Iterable[str]) -> list[Path]:
    """The files of those modules that lie in the folder of `path`, or below it."""
    folder = path.parent.resolve()
    files = {
        Path(file).resolve() for name in names if (file := getattr(sys.modules.get(name), "__file__", None)) is not None
    }
    return sorted(
        file
        for file in files - {path.resolve()}
        if file.is_relative_to(folder) and file.suffix == ".py" and "site-packages" not in file.parts
    )
