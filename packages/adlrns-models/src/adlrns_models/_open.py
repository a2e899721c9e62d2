"""Opening the attentions of a model: their projections become layers of their own."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from adlrns_models._attention import OpenAttention
from adlrns_models._owners import Owners, owners_of


def reason_to_stay_closed(module: nn.MultiheadAttention, owners: Owners) -> str | None:
    """Returns why the attention cannot be opened, None if it can."""
    if type(module) is not nn.MultiheadAttention:
        return f"{type(module).__name__} is a subclass that may compute something else"
    if type(module.out_proj).forward is not nn.Linear.forward:
        return f"its out_proj is a {type(module.out_proj).__name__}"
    packed = module._qkv_same_embed_dim
    names = ["in_proj_weight"] if packed else ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
    held = (module, [*names, "in_proj_bias"]), (module.out_proj, ["weight", "bias"])
    for owner, parts in held:
        for part in parts:
            if getattr(owner, part) is not None and owner._parameters.get(part) is None:
                return f"its {part} is computed (pruned, normalised), not a parameter"
    return owners.reason_of_tie(module)


@contextmanager
def opening(model: nn.Module, names: Iterable[str] | None = None) -> Iterator[nn.Module]:
    """Opens attentions of ``model`` in place; if the block raises, all is as it was.

    Parameters and hooks are those of the closed modules.

    Args:
        model: any model.
        names: of the attentions to open; None means all that can be opened.

    Yields:
        The model, or what stands in for it if it is an attention itself.

    Raises:
        ValueError: if a name is not that of an attention that can be opened.
    """
    new = _stand_ins(model, names)
    result = replace_modules(model, new)
    # such an encoder packs its rows into nested tensors, for layers that read weights
    packing = _packing(result)
    for encoder in packing:
        vars(encoder)["use_nested_tensor"] = False
    try:
        yield result
    except BaseException:
        replace_modules(result, {stand_in: module for module, stand_in in new.items()})
        for encoder in packing:
            vars(encoder)["use_nested_tensor"] = True
        raise


def opened(model: nn.Module, names: Iterable[str] | None = None) -> nn.Module:
    """Returns ``model`` with attentions open: a copy that shares all tensors, if it has any.

    Args and errors are those of :func:`opening`.
    """
    if not _stand_ins(model, names):
        return model
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    with opening(copy.deepcopy(model, shared), names) as result:
        return result


def open_names(model: nn.Module) -> list[str]:
    """Returns the names of the open attentions of ``model``."""
    return [name for name, module in model.named_modules() if isinstance(module, OpenAttention)]


def replace_modules(model: nn.Module, new: Mapping[Any, nn.Module]) -> nn.Module:
    """Puts ``new[old]`` wherever ``old`` is in ``model``; returns the model (or its stand-in)."""
    if model in new:
        return new[model]
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and child in new:
                parent._modules[name] = new[child]
    return model


def _stand_ins(
    model: nn.Module, names: Iterable[str] | None
) -> dict[nn.MultiheadAttention, OpenAttention]:
    owners, found = owners_of(model), {}
    closed = {n: m for n, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)}
    already = set(open_names(model))
    for name in closed if names is None else [n for n in names if n not in already]:
        reason = reason_to_stay_closed(closed[name], owners) if name in closed else "there is none"
        if reason is None:
            found[closed[name]] = _stand_in(closed[name])
        elif names is not None:
            raise ValueError(f"model has no attention {name!r} to open: {reason}")
    return found


def _stand_in(module: nn.MultiheadAttention) -> OpenAttention:
    new = OpenAttention(module)
    for name, hooks in vars(module).items():
        if "_hooks" in name:  # the same dictionaries: handles that users hold go on working
            setattr(new, name, hooks)
    return new


def _packing(model: nn.Module) -> list[nn.TransformerEncoder]:
    encoders = [m for m in model.modules() if isinstance(m, nn.TransformerEncoder)]
    return [e for e in encoders if vars(e).get("use_nested_tensor") and open_names(e)]
