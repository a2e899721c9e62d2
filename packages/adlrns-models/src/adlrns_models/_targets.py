"""Which layers of a model can be made adaptive, and why the others cannot."""

from typing import NamedTuple

from torch import nn

from adlrns_models._attention import OpenAttention
from adlrns_models._conv1d import is_conv1d, named_conv1d
from adlrns_models._open import reason_to_stay_closed
from adlrns_models._owners import Owners, owners_of
from adlrns_models._plain import Plain, sizes_of

# layers with a weight of several axes that this package has nothing for
_OTHERS = (
    nn.Conv1d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Bilinear,
    nn.RNNBase,
    nn.RNNCellBase,
)


class Targets(NamedTuple):
    """The layers of a model that can be made adaptive, and why the others cannot.

    Attributes:
        layers: name to layer; a shared layer stands once, under its first name.
        skipped: name to reason, for layers with a weight that are left alone.
    """

    layers: dict[str, Plain]
    skipped: dict[str, str]


def find_targets(model: nn.Module, *, include_conv: bool = True) -> Targets:
    """Returns the linear and convolution layers of ``model`` that can be made adaptive."""
    owners = owners_of(model)
    found = Targets({}, {})
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) or is_conv1d(module):
            parent = model.get_submodule(name.rpartition(".")[0]) if name else None
            reason = _reason_to_skip(module, parent, owners, include_conv)
            if reason is None:
                found.layers[name] = module
        else:
            reason = _reason_for_others(module, owners)
        if reason is not None:
            found.skipped[name] = reason
    return found


def _reason_for_others(module: nn.Module, owners: Owners) -> str | None:
    if isinstance(module, nn.MultiheadAttention):
        return reason_to_stay_closed(module, owners) or "its projections are not open"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "an embedding looks rows up: there is no product to make cheaper"
    if named_conv1d(module):
        return "it is called Conv1D but is not x @ weight + bias with two parameters"
    if isinstance(module, _OTHERS):
        return f"there is no adaptive {type(module).__name__}"
    return None


def _reason_to_skip(
    module: Plain, parent: nn.Module | None, owners: Owners, include_conv: bool
) -> str | None:
    if isinstance(module, nn.Conv2d) and not include_conv:
        return "include_conv is False"
    if _reads_weights(parent):
        return f"{type(parent).__name__} reads its weight instead of calling it"
    if isinstance(module, nn.Linear | nn.Conv2d) and type(module) not in (nn.Linear, nn.Conv2d):
        return f"{_full_name(module)} is a subclass that may compute something else"
    return _reason_in_tensors(module) or owners.reason_of_tie(module) or _reason_in_groups(module)


def _full_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _reads_weights(parent: nn.Module | None) -> bool:
    """Returns whether ``parent`` reads its children's weights instead of calling them."""
    if isinstance(parent, nn.TransformerEncoderLayer):  # with open attention it calls
        return not isinstance(parent.self_attn, OpenAttention)
    return isinstance(parent, nn.MultiheadAttention)


def _reason_in_tensors(module: Plain) -> str | None:
    for part in ("weight", "bias"):
        if getattr(module, part) is not None and module._parameters.get(part) is None:
            return f"its {part} is computed (pruned, normalised), not a parameter"
    if not module.weight.is_floating_point():
        return f"its weight is {module.weight.dtype}"
    if module.weight.is_meta:
        return "its weight has no values (meta)"
    return "its weight is empty" if module.weight.numel() == 0 else None


def _reason_in_groups(module: Plain) -> str | None:
    sizes = sizes_of(module)
    if sizes.groups == 1 or sizes.max_rank > 1:
        return None
    return (
        f"each of its {sizes.groups} groups is a {sizes.outputs} x {sizes.inputs} matrix "
        "(depthwise): of one rank, which nothing can be taken from"
    )
