"""µP's scale of attention, 1/d instead of 1/√d, for modules whose head dimension d grows with width.

Where d is fixed and the number of heads grows, nothing is to be done. Else scores are multiplied by √(d_base / d) besides their
own 1/√d, so that nothing changes at the base width (Yang et al. 2022, definition 4.1). The scale is looked for where modules
keep it: in an attribute, or in the default of `scaled_dot_product_attention`, which a hook replaces while the module runs.

What a forward pass multiplies by a function of its width, in attention or elsewhere, can't be seen in weights and shapes: it is
looked for in attributes and in the source, and named (`_warn_of_numbers`).
"""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mufree.optim.uses import source_of

HEAD_DIMENSIONS = (
    "head_dim",
    "attention_head_size",
    "head_size",
    "dim_head",
    "d_head",
    "d_kv",
    "key_value_proj_dim",
    "head_dimension",
)
HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads")
"""What modules call their head dimension, and the number of heads."""


_PRODUCT_OF_PROJECTIONS = re.compile(r"(@|matmul\(|bmm\().*(\.transpose\(|\.mT\b|\.T\b|\.t\(\))")


def scale_attention(model: nn.Module, base: nn.Module, own_scale: Sequence[str] = ()) -> None:
    """Give every attention of `model` the scale that it has at base width times √(d_base / d).

    `model` carries base shapes, and `base` is the same model at base width. Modules whose names fit a pattern of `own_scale`
    stay as they are. Warns, naming the module, where a head dimension grows and no scale is found, where there seems to be
    attention whose head dimension can't be told, and of other modules that compute with a number of the width.
    """
    for name, at_base in base.named_modules():
        module = model.get_submodule(name)
        if any(fnmatchcase(name, pattern) for pattern in own_scale):
            continue
        growth = _growth_of_heads(module, at_base)
        if growth is None:
            if _looks_like_attention(module) and not any(
                _looks_like_attention(m) or _heads(m) for m in _inside(module)
            ):
                _warn(name, module, "has attention in its code, but no attribute `head_dim` or `num_heads`")
            _warn_of_numbers(name, module, at_base)
        elif growth != 1.0:
            _scale(name, module, at_base, growth)


def attention_factor(name: str, module: nn.Module) -> float:
    """By what the scores of this very module are multiplied besides the scale that its class gives them; 1.0 for most.

    Raises ValueError where that is seen in a forward pass alone and there was none.
    """
    factor = float(vars(module).get("mup_attention_factor", 1.0))
    hook = _default_scale(module)
    if factor == 1.0 or vars(module).get("mup_attention_scales") or hook is None:
        return factor
    if hook.applied is None:
        raise ValueError(f"{name} has not run yet, so that its scale isn't known. Run the model once, then export it.")
    return factor if hook.applied else 1.0


def plain_scale(module: nn.Module) -> None:
    """Give a module back the scale that its class gives it."""
    for attribute, value in vars(module).pop("mup_attention_scales", {}).items():
        setattr(module, attribute, value)
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key in [key for key, hook in hooks.items() if isinstance(getattr(hook, "__self__", None), DefaultScale)]:
            del hooks[key]
            module._forward_hooks_always_called.pop(key, None)
    vars(module).pop("mup_attention_factor", None)


def _default_scale(module: nn.Module) -> DefaultScale | None:
    owners = (getattr(hook, "__self__", None) for hook in module._forward_pre_hooks.values())
    return next((owner for owner in owners if isinstance(owner, DefaultScale)), None)


def _scale(name: str, module: nn.Module, at_base: nn.Module, growth: float) -> None:
    factor = growth**-0.5
    plain: dict[str, float] = {}
    for attribute, here in list(vars(module).items()):
        there = vars(at_base).get(attribute)
        # A number that is 1/√d, or √d to divide by; one that goes as 1/d is µP's already.
        if isinstance(here, float) and isinstance(there, float) and here > 0 and there > 0:
            goes = math.log(here / there) / math.log(growth)
            if abs(abs(goes) - 0.5) < 1e-6:
                setattr(module, attribute, here * (here / there))
                plain[attribute] = here
            elif abs(abs(goes) - 1.0) < 1e-6:
                return
    if isinstance(module, nn.MultiheadAttention) or "scaled_dot_product_attention" in _source(module):
        hook = DefaultScale(factor, name, warns=not plain)
        module.register_forward_pre_hook(hook.enter)
        module.register_forward_hook(hook.leave, always_call=True)
    elif not plain:
        what = f"has heads whose dimension grows by {growth:g}, and the scale of its scores isn't found"
        return _warn(name, module, what, stacklevel=5)
    vars(module).update(mup_attention_factor=factor, mup_attention_scales=plain)


def _growth_of_heads(module: nn.Module, at_base: nn.Module) -> float | None:
    """By what factor the head dimension has grown, for a module with weights that says so; None for others."""
    if not any(p.dim() > 1 for p in module.parameters()):
        return None
    for attribute in HEAD_DIMENSIONS:
        if sizes := _whole(module, at_base, attribute):
            return sizes[0] / sizes[1]
    for attribute in HEADS:
        if sizes := _whole(module, at_base, attribute):
            if any(map(_heads, _inside(module))):
                return None  # a model or a block; the attention is inside
            widths = [dim.width_mult() for p in module.parameters() for dim in getattr(p, "infshape", ())]
            return float(max(widths, default=1.0)) * sizes[1] / sizes[0]
    return None


def _whole(module: nn.Module, at_base: nn.Module, attribute: str) -> tuple[int, int] | None:
    here, there = (getattr(m, attribute, None) for m in (module, at_base))
    return (here, there) if isinstance(here, int) and isinstance(there, int) and min(here, there) > 0 else None


def _heads(module: nn.Module) -> bool:
    """Whether a module says how many heads it has, or of what size."""
    return any(_whole(module, module, attribute) for attribute in (*HEADS, *HEAD_DIMENSIONS))


def _inside(module: nn.Module) -> list[nn.Module]:
    return [inner for inner in module.modules() if inner is not module]


def _looks_like_attention(module: nn.Module) -> bool:
    """Whether the module's own code computes softmax over products of what it projects."""
    source = _source(module)
    by_hand = "softmax" in source and _PRODUCT_OF_PROJECTIONS.search(source)
    return any(p.dim() > 1 for p in module.parameters()) and bool("scaled_dot_product_attention" in source or by_hand)


def _source(module: nn.Module) -> str:
    return source_of(type(module))  # type: ignore[arg-type]  # nn.Module's own __hash__ misleads mypy


def _warn(name: str, module: nn.Module, what: str, stacklevel: int = 4) -> None:
    warnings.warn(
        f"{name or 'the model'} ({type(module).__name__}) {what}: its scores keep their scale. If the head dimension d grows "
        "with width, µP asks for √d_base / d instead of 1/√d; a fixed head dimension, with more heads in a wider model, needs "
        f'nothing. Where that is so, tell parametrize: own_scale=["{name}"].',
        stacklevel=stacklevel,
    )


class DefaultScale:
    """Hooks between which the scores of `scaled_dot_product_attention` are multiplied by `factor` where no scale is given.

    `nn.MultiheadAttention` scales by itself, so its queries are multiplied there. `applied` says whether there were such scores
    in the last forward pass, and is None before the first.
    """

    def __init__(self, factor: float, name: str, *, warns: bool) -> None:
        self.factor = factor
        self.name = name
        self.warns = warns
        self.applied: bool | None = None
        self.active: list[_Scaled] = []

    def enter(self, _module: nn.Module, _inputs: Any) -> None:
        """Forward pre-hook."""
        mode = _Scaled(self.factor)
        mode.__enter__()  # type: ignore[no-untyped-call]
        self.active.append(mode)

    def leave(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        """Forward hook, called after an exception as well."""
        if not self.active:
            return
        mode = self.active.pop()
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self.applied = mode.applied
        if self.warns and not self.applied and output is not None:
            self.warns = False
            what = "did not call scaled_dot_product_attention with its default scale"
            _warn(self.name, module, what, stacklevel=6)


class _Scaled(TorchFunctionMode):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.applied = False
        self.hooks_outside = _saved_tensors_hooks()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.scaled_dot_product_attention and kwargs.get("scale") is None and len(args) < 7:
            self._check_checkpoint()
            kwargs["scale"] = self.factor / math.sqrt(args[0].shape[-1] if args else kwargs["query"].shape[-1])
        elif func is F.multi_head_attention_forward:
            self._check_checkpoint()
            bound = inspect.signature(func).bind(*args, **kwargs)
            _scale_queries(bound.arguments, self.factor)
            return func(*bound.args, **bound.kwargs)
        return func(*args, **kwargs)

    def _check_checkpoint(self) -> None:
        """Refuse what would be computed again, in the backward pass, without the scale."""
        if _saved_tensors_hooks() is not self.hooks_outside:
            raise RuntimeError(
                "Activation checkpointing of scaled_dot_product_attention alone: computed again in the backward pass, it would "
                "lose µP's scale. Checkpoint the attention module, or the block around it."
            )
        self.applied = True


def _saved_tensors_hooks() -> Any:
    """What torch.utils.checkpoint puts in the way of tensors that autograd keeps; None without."""
    top = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return None if top is None else top[0]


def _scale_queries(given: dict[str, Any], factor: float) -> None:
    """Multiply the weights of the queries, in the arguments of `multi_head_attention_forward`."""

    def first_third(packed: Tensor) -> Tensor:
        queries, others = packed.tensor_split([len(packed) // 3])
        return torch.cat([factor * queries, others])

    if given.get("q_proj_weight") is not None:
        given["q_proj_weight"] = factor * given["q_proj_weight"]
    else:
        given["in_proj_weight"] = first_third(given["in_proj_weight"])
    if given.get("in_proj_bias") is not None:
        given["in_proj_bias"] = first_third(given["in_proj_bias"])


# --- numbers of the width in a forward pass ---------------------------------------------------------------------------

_ROOT = re.compile(r"sqrt\(\s*self\.([\w.]+)\s*\)|self\.([\w.]+)\s*\*\*\s*\(?-?0\.5")


def _warn_of_numbers(name: str, module: nn.Module, at_base: nn.Module) -> None:
    """Warn if a module computes with a number that grows with width: an attribute, or the root of one in its source.

    `embedding(tokens) * math.sqrt(self.d_model)` is the usual case.
    """
    numbers = [key for key, value in vars(module).items() if isinstance(value, float)]
    roots = {match[1] or match[2] for match in _ROOT.finditer(_forward_source(module))}
    for attribute in (*numbers, *sorted(roots)):
        here, there = (_value(m, attribute) for m in (module, at_base))
        if here is not None and there is not None and here != there:
            root = "√" if attribute in roots else ""
            warnings.warn(
                f"{name or 'the model'} ({type(module).__name__}) computes with {root}self.{attribute}, which is {there:g} at "
                f"base width and {here:g} here: what it multiplies grows or shrinks with width, which µP's rules don't allow "
                "for. Take its value at base width for all widths, or, if it is right, tell parametrize: "
                f'own_scale=["{name}"].',
                stacklevel=4,
            )


def _value(module: nn.Module, path: str) -> float | None:
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else None


def _forward_source(module: nn.Module) -> str:
    """The source of a module's class without its constructor, where 1/√d is an initial weight's size as a rule."""
    source = _source(module)
    return re.sub(r"def __init__.*?(?=\n    (?:@|def )|\Z)", "", source, flags=re.DOTALL)
