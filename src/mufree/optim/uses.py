"""How a module uses each of its parameters: which dimensions are summed over, and which are put out.

µP scales a tensor by how its fan-in and its fan-out grow with width. A shape alone doesn't tell them apart: [64, 4] is the
weight of `nn.Linear(4, 64)`, of a router `x @ weight`, or a table of positions. So torch's own modules are known by class, and
for all others the source of the class is read: `F.linear(x, self.weight)` sums over the last dimension,
`x @ self.weight` over the one before, `x + self.weight` over none.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mup
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


@dataclass(frozen=True)
class Use:
    """Dimensions of a tensor, by what an application of it does with them.

    Counted from the first; as the source has it, and until it is made `of` a tensor, from the last where they are negative.
    """

    inputs: tuple[int, ...]
    """Summed over: the fan-in. Empty for what is added, multiplied entry by entry, or looked up."""
    outputs: tuple[int, ...]
    """Put out: the fan-out."""
    why: str
    """Where that is known from."""

    @property
    def is_sum(self) -> bool:
        """Whether anything is summed over."""
        return bool(self.inputs)

    def of(self, dimensions: int) -> Use | None:
        """The same of a tensor with so many dimensions, counted from the first; None if it can't be."""
        if dimensions == 1 and self.inputs:  # x @ vector
            return Use((0,), (), self.why)
        if any(not -dimensions <= d < dimensions for d in (*self.inputs, *self.outputs)):
            return None
        inputs = tuple(d % dimensions for d in self.inputs)
        outputs = tuple(d % dimensions for d in self.outputs)
        if not inputs and not outputs:  # entry by entry
            outputs = tuple(range(dimensions))
        return Use(inputs, outputs, self.why)


def uses_of(model: nn.Module) -> dict[str, list[Use]]:
    """Every use that is known of each parameter, by its first name; more than one where a weight is tied.

    One dimension that nothing else is known of is added or multiplied entry by entry; for other parameters the list is then
    empty.
    """
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, list[Use]] = {name: [] for name in first.values()}

    def add(parameter: Any, use: Use | None) -> None:
        if use is not None and isinstance(parameter, nn.Parameter) and id(parameter) in first:
            known = found[first[id(parameter)]]
            if (use.inputs, use.outputs) not in [(other.inputs, other.outputs) for other in known]:
                known.append(use)

    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            add(parameter, _of_torch(module, name, parameter))
        for path, readings in _in_source(module).items():
            for parameter in _reached(module, path):
                for reading in readings:
                    add(parameter, reading.of(parameter.dim()))
    for name, parameter in model.named_parameters():
        if not found[name] and parameter.dim() <= 1:
            owner = type(model.get_submodule(name.rpartition(".")[0])).__name__
            add(parameter, Use((), tuple(range(parameter.dim())), f"a vector of {owner}"))
    return found


def module_uses(module: nn.Module, name: str) -> list[Use]:
    """The uses that are known of a parameter in the module that owns it."""
    parameter = module.get_parameter(name)
    known = [_of_torch(module, name, parameter)]
    known += [reading.of(parameter.dim()) for reading in _in_source(module).get(name, ())]
    return [use for use in known if use is not None]


# --- torch's own modules ---------------------------------------------------------------------------------------------


def _of_torch(module: nn.Module, name: str, parameter: Tensor) -> Use | None:
    """The use of a parameter of one of torch's modules or of a subclass; None for other modules."""
    called = type(module).__name__
    match module:
        case _ if parameter.dim() <= 1:
            return None
        case mup.MuReadout():
            return Use((), (1,), f"{called}, which divides by the growth itself")
        case nn.Embedding() | nn.EmbeddingBag():
            return Use((), (1,), f"looked up by {called}")
        case _ConvTransposeNd() if module.groups == 1:
            return Use((0,), (1,), f"{called} [in, out, …]")
        case _ConvNd() if not isinstance(module, _ConvTransposeNd):
            return Use((1,), (0,), f"{called} [out, in, …]")
        case nn.Bilinear():
            return Use((1, 2), (0,), f"{called} [out, in, in]")
        case nn.Linear() | nn.RNNBase() | nn.RNNCellBase():
            return Use((1,), (0,), f"{called} [out, in]")
        case nn.MultiheadAttention():
            return (
                Use((1,), (0,), f"{called} [out, in]")
                if name.endswith("weight")
                else Use((), (2,), f"a token of {called}")
            )
        case nn.LayerNorm() | nn.RMSNorm() | nn.GroupNorm() | nn.modules.batchnorm._BatchNorm():
            return Use((), tuple(range(parameter.dim())), f"a gain of {called}")
    return None


# --- others, by their source -----------------------------------------------------------------------------------------

_SUMS = {
    # Name of a function, which argument the weight is, the dimensions of its inputs and of its outputs.
    ("linear", 1): ((-1,), (-2,)),
    ("matmul", 1): ((-2,), (-1,)),
    ("matmul", 0): ((-1,), (-2,)),
    ("mm", 1): ((-2,), (-1,)),
    ("bmm", 1): ((-2,), (-1,)),
    ("addmm", 2): ((-2,), (-1,)),
    ("baddbmm", 2): ((-2,), (-1,)),
    **{(f"conv{n}d", 1): ((1,), (0,)) for n in (1, 2, 3)},
    **{(f"conv_transpose{n}d", 1): ((0,), (1,)) for n in (1, 2, 3)},
}
_TABLES = {("embedding", 1), ("embedding_bag", 1)}
_ENTRY_BY_ENTRY = ("cat", "concat", "stack", "expand", "expand_as", "repeat", "mul", "add", "layer_norm", "rms_norm")
_PASSED_THROUGH = ("to", "type", "type_as", "float", "half", "bfloat16", "contiguous", "clone", "unsqueeze")
_ENTRYWISE = ("exp", "log", "sigmoid", "softplus", "tanh", "relu", "abs", "softmax", "dropout")
"""Functions of a tensor that leave its dimensions as they are."""
_TURNED = ("t", "transpose", "swapaxes", "T", "mT")


def _in_source(module: nn.Module) -> dict[str, tuple[Use, ...]]:
    return _read_source(type(module))  # type: ignore[arg-type]  # nn.Module's own __hash__ misleads mypy


@functools.cache
def source_of(cls: type) -> str:
    """The source of a class, from its margin on; empty for torch's own, and for one made in a prompt or by code."""
    if cls.__module__.startswith("torch."):
        return ""
    try:
        return textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return ""


@functools.cache
def _read_source(cls: type) -> dict[str, tuple[Use, ...]]:
    """How the methods of a class use what `self.` reaches, by dotted path; empty for torch's and where there is no source."""
    if issubclass(cls, mup.MuReadout):
        return {}
    found: dict[str, list[Use]] = {}
    overridden: set[str] = set()
    for base in cls.__mro__:
        if not issubclass(base, nn.Module):
            continue
        methods = [each for each in _methods(base) if each.name not in overridden]
        for method in methods:
            for path, reading in _Function(method).readings():
                found.setdefault(path, []).append(reading)
        overridden |= {method.name for method in methods if "super()" not in ast.unparse(method)}
    return {path: tuple(dict.fromkeys(readings)) for path, readings in found.items()}


def _methods(cls: type) -> list[ast.FunctionDef]:
    """The methods of a class that use what it holds; none where there is no source."""
    try:
        tree = ast.parse(source_of(cls))
    except SyntaxError:  # a string that begins at the margin, in a class that doesn't
        return []
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [each for each in functions if each.name not in ("__init__", "reset_parameters")]


class _Function:
    """The uses of `self.…` in one method."""

    def __init__(self, tree: ast.FunctionDef) -> None:
        self.tree = tree
        self.parent = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}

    def readings(self) -> Iterator[tuple[str, Use]]:
        """(path, how it is used), a pair a place; local names that stand for it are followed once."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and (path := _path(node)):
                for reading in self._used(node, turned=False, follow=True):
                    yield path, reading

    def _used(self, node: ast.expr, *, turned: bool, follow: bool, mixed: bool = False) -> Iterator[Use]:
        """How an expression that stands for the tensor is used.

        `turned` if its last two dimensions are swapped, `mixed` if something was added or multiplied, so that it may stand for
        activations by now: only where a weight is expected does it still tell of the tensor.
        """
        parent = self.parent.get(node)
        match parent:
            case ast.Subscript() if parent.value is node:
                yield from self._used(parent, turned=turned, follow=follow, mixed=mixed)
            case ast.Attribute(attr=name) if name in _TURNED or name in _PASSED_THROUGH or name in _ENTRY_BY_ENTRY:
                call = self.parent.get(parent)
                outer = call if isinstance(call, ast.Call) and call.func is parent else parent
                if name in _ENTRY_BY_ENTRY:
                    yield from self._mixed(outer, turned, follow, mixed)
                else:
                    yield from self._used(outer, turned=turned ^ (name in _TURNED), follow=follow, mixed=mixed)
            case ast.BinOp(op=ast.MatMult()) if parent.right is node or not mixed:
                yield _reading(("matmul", int(parent.right is node)), turned, parent)
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div()):
                yield from self._mixed(parent, turned, follow, mixed)
            case ast.AugAssign():
                yield _entry_by_entry(parent)
            case ast.UnaryOp():
                yield from self._used(parent, turned=turned, follow=follow, mixed=mixed)
            case ast.Call() if node in parent.args:
                yield from self._in_call(node, parent, turned, follow, mixed)
            case ast.keyword(arg="weight"):
                call = self.parent[parent]
                assert isinstance(call, ast.Call)
                if (key := (_called(call), 1)) in _SUMS:
                    yield _reading(key, turned, call)
            case ast.List() | ast.Tuple():
                call = self.parent.get(parent)
                if isinstance(call, ast.Call) and _called(call) in _ENTRY_BY_ENTRY:
                    yield _entry_by_entry(call)
            case ast.Assign(targets=[ast.Name(id=name)]) if follow:
                for other in ast.walk(self.tree):
                    if isinstance(other, ast.Name) and other.id == name and isinstance(other.ctx, ast.Load):
                        yield from self._used(other, turned=turned, follow=False, mixed=mixed)

    def _mixed(self, outcome: ast.expr, turned: bool, follow: bool, mixed: bool) -> Iterator[Use]:
        """Added or multiplied entry by entry; as a weight if what comes out of that is used as one."""
        product = isinstance(outcome, ast.BinOp) and isinstance(outcome.op, ast.Mult) and not mixed
        if product and self._summed_up(outcome):
            yield Use((-1,), (-2,), f"`{_text(outcome)}`, summed up")
            return
        as_weight = list(self._used(outcome, turned=turned, follow=follow, mixed=True))
        yield from as_weight or [_entry_by_entry(outcome)]

    def _summed_up(self, product: ast.expr) -> bool:
        """Whether the last dimension of a product is summed over at once: `(h * weight).sum(-1)`."""
        parent = self.parent.get(product)
        call = self.parent.get(parent) if isinstance(parent, ast.Attribute) else parent
        if not isinstance(call, ast.Call) or _called(call) not in ("sum", "mean"):
            return False
        given = [*call.args[0 if isinstance(parent, ast.Attribute) else 1 :], *(word.value for word in call.keywords)]
        return any(ast.unparse(value) == "-1" for value in given)

    def _in_call(self, node: ast.expr, call: ast.Call, turned: bool, follow: bool, mixed: bool) -> Iterator[Use]:
        name, place = _called(call), call.args.index(node)
        if (name, place) in _SUMS and not (mixed and place == 0):
            yield _reading((name, place), turned, call)
        elif (name, place) in _TABLES:
            yield Use((), (-1,), f"`{_text(call)}`")
        elif name == "einsum" and not mixed:
            yield from _einsum(call, place)
        elif name in _ENTRY_BY_ENTRY:
            yield from self._mixed(call, turned, follow, mixed)
        else:  # quantize(weight), say, of which only its use as a weight tells anything
            yield from self._used(call, turned=turned, follow=follow, mixed=mixed or name not in _ENTRYWISE)


def _reading(key: tuple[str, int], turned: bool, where: ast.AST) -> Use:
    inputs, outputs = _SUMS[key]
    if turned:
        inputs, outputs = outputs, inputs
    return Use(inputs, outputs, f"`{_text(where)}`")


def _entry_by_entry(where: ast.AST) -> Use:
    return Use((), (), f"`{_text(where)}`")


def _einsum(call: ast.Call, place: int) -> Iterator[Use]:
    """Of `einsum("bsd,edh->besh", x, weight)`: what isn't in the result is summed over, what no other has is put out."""
    equation = call.args[0]
    if not (isinstance(equation, ast.Constant) and isinstance(equation.value, str) and "->" in equation.value):
        return
    operands, result = equation.value.replace(" ", "").split("->")
    terms = operands.split(",")
    if place > len(terms) or "." in terms[place - 1]:
        return
    own, others = terms[place - 1], "".join(terms[: place - 1] + terms[place:])
    inputs = tuple(i for i, letter in enumerate(own) if letter not in result)
    outputs = tuple(i for i, letter in enumerate(own) if letter in result and letter not in others)
    yield Use(inputs, outputs, f"`{_text(call)}`")


def _path(node: ast.Attribute) -> str:
    """`a.b` of `self.a.b`; empty for anything else."""
    parts = []
    inner: ast.expr = node
    while isinstance(inner, ast.Attribute):
        parts.append(inner.attr)
        inner = inner.value
        if isinstance(inner, ast.Subscript):  # self.tables[i]
            inner = inner.value
    return ".".join(reversed(parts)) if isinstance(inner, ast.Name) and inner.id == "self" else ""


def _reached(module: nn.Module, path: str) -> Iterator[nn.Parameter]:
    """The parameters at `path` from a module: itself, or those of a list or dict of parameters."""
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    if isinstance(found, nn.Parameter):
        yield found
    elif isinstance(found, (nn.ParameterList, nn.ParameterDict)):
        yield from found.parameters()


def _called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _text(node: ast.AST) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 60 else f"{text[:57]}…"
