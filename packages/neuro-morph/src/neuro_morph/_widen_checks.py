"""What stands against widening a group, or is worth saying of it."""

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from neuro_morph._edit import Site
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._groups import GrowthGroup
from neuro_morph._plan_widen import Units, fill_of
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


def why_still(site: Site, group: GrowthGroup) -> str | None:
    """Returns that new units will not learn, None if they may or nothing in the model does."""
    held = tensors_of(site.model)
    makers = group.producers
    if not makers or any(held[name].requires_grad for name in makers):
        return None
    if not any(p.requires_grad for p in site.model.parameters()):
        return None
    return f"{makers[0]!r}, which makes the new units, is frozen: they stay as they begin"
