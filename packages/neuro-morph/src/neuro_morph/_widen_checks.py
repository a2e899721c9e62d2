"""What stands against widening a group, or is worth saying of it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from neuro_morph._edit import Site
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._groups import GrowthGroup
from neuro_morph._plan_widen import Units, fill_of
from neuro_morph._untouched import untouched
from neuro_morph._valuing import Needs
from neuro_morph._widening import tensors_of


def check_kinds(site: Site, group: GrowthGroup) -> None:
    """Raises GrowthRefusedError for tensors that cannot be widened, or inputs that show nothing."""
    held = tensors_of(site.model)
    for name in sorted(group.parameters()):
        tensor = held[name]
        kinds = {
            "on the meta device": tensor.is_meta,
            "complex": tensor.is_complex(),
            "quantised": tensor.is_quantized,
            "sparse": tensor.layout != torch.strided,
        }
        found = [kind for kind, is_so in kinds.items() if is_so]
        if found:
            raise GrowthRefusedError(f"{group.id!r} cannot be widened: {name!r} is {found[0]}")
    given = tree_leaves((site.inputs.args, site.inputs.kwargs))
    if any(isinstance(leaf, Tensor) and leaf.numel() == 0 for leaf in given):
        raise GrowthRefusedError(
            f"{group.id!r} cannot be widened: example_inputs are empty, so nothing can be checked"
        )


def check_readers(site: Site, group: GrowthGroup, needs: Needs, units: Units) -> None:
    """New units with columns of zeros learn only if a layer that reads them is trained."""
    held = tensors_of(site.model)
    readers = [m for m in group.members if "in" in m.kinds]
    if units.columns or units.late or bool((units.parents >= 0).all()):
        return
    frozen = bool(readers) and not any(held[m.name].requires_grad for m in readers)
    random = any(fill_of(member, needs) == "random" for member in readers)
    if frozen and not random and any(p.requires_grad for p in site.model.parameters()):
        raise GrowthRefusedError(
            f"{group.id!r} cannot be widened by units that nothing reads yet: {readers[0].name!r} "
            "is frozen, and so is all that could learn to read them"
        )


def check_hooks(model: nn.Module, names: Iterable[str]) -> None:
    """Raises GrowthRefusedError if a hook cannot take a gradient of its parameter's new shape.

    Each is given zeros. Hooks of frozen parameters are left out: they get no gradients.
    """
    held = tensors_of(model)
    for name in [n for n in names if held[n]._backward_hooks and held[n].requires_grad]:
        for hook in list((held[name]._backward_hooks or {}).values()):
            with untouched(model), torch.no_grad():
                why = _why_not(hook, torch.zeros_like(held[name]))
            if why is not None:
                raise GrowthRefusedError(
                    f"{name!r} cannot grow: a hook of its gradient (register_hook) {why}; remove "
                    "it first and register one for the new shape"
                )


def _why_not(hook: Callable[[Tensor], Any], gradient: Tensor) -> str | None:
    shape = tuple(gradient.shape)
    try:
        given = hook(gradient)
    except Exception as error:  # of whoever wrote it
        return f"fails for the new shape {shape} ({type(error).__name__}: {error})"
    if isinstance(given, Tensor) and given.shape != shape:
        return f"makes {tuple(given.shape)} of the new shape {shape}"
    return None


def why_still(site: Site, group: GrowthGroup) -> str | None:
    """Returns that new units will not learn, None if they may or nothing in the model does."""
    held = tensors_of(site.model)
    makers = group.producers
    if not makers or any(held[name].requires_grad for name in makers):
        return None
    if not any(p.requires_grad for p in site.model.parameters()):
        return None
    return f"{makers[0]!r}, which makes the new units, is frozen: they stay as they begin"
