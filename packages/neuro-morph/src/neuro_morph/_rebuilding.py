"""Layers and connections that a network grew, built again without data from what a spec holds."""

from typing import Any

import torch
from torch import nn

from neuro_morph._blocks import BlockShape, copy_of, identity_layer, like_of, residual_block
from neuro_morph._edge import EdgeShape, GrownEdge, install
from neuro_morph._inserting import Insertion, insert
from neuro_morph._masked_norm import put_mask
from neuro_morph._spec import REBUILDS, Step
from neuro_morph._undo import UndoLog

_KINDS = ("copy", "identity", "residual")


def rebuild_layer(model: nn.Module, detail: dict[str, Any], log: UndoLog) -> None:
    """Puts the layer of a ``deepen`` step in its place; its numbers come with the state.

    Raises:
        ValueError: if it is of a class of one's own, or the model has no module to follow.
    """
    why_not = why_not_rebuilt(Step("deepen", detail, [], []))
    if why_not is not None:
        raise ValueError(why_not)
    built = detail["built"]
    where = Insertion(**built["where"])
    module = _module(model, where.after)
    with torch.random.fork_rng(devices=()):
        block = _block(built, module)
    block.to(like_of(module, model)).train(module.training)
    insert(model, where, block, log, whole=built["kind"] == "copy")


def rebuild_connection(model: nn.Module, detail: dict[str, Any], log: UndoLog) -> None:
    """Joins the connection of a ``connect`` step in; its numbers come with the state.

    Raises:
        ValueError: if the model has not the modules that it connects.
    """
    built = detail["built"]
    held: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in built["shape"].items()
    }
    shape = EdgeShape(**held)
    _module(model, shape.source)
    target = _module(model, shape.target)
    with torch.random.fork_rng(devices=()):
        edge = GrownEdge(shape)
    edge.to(like_of(target, model)).train(target.training)
    install(model, built["name"], edge, log)


def why_not_rebuilt(step: Step) -> str | None:
    """Returns why what an edit has added cannot be built again from a spec, None if it can."""
    if "built" not in step.detail:
        return None
    if step.op not in REBUILDS:
        return f"nothing is known of how the modules of {step.op!r} are built"
    kind = step.detail["built"].get("kind", "copy")
    if step.op == "deepen" and kind not in _KINDS:
        return f"the spec holds a layer of the class {kind!r}, which it cannot build"
    return None


def _block(built: dict[str, Any], module: nn.Module) -> nn.Module:
    kind = built["kind"]
    if kind == "copy":
        return copy_of(module)
    shape = BlockShape(**built["shape"])
    return identity_layer(shape) if kind == "identity" else residual_block(shape)


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        raise ValueError(f"the spec does not fit: the model has no module {path!r}") from None


def rebuild_masks(model: nn.Module, detail: dict[str, Any], log: UndoLog) -> None:
    """Puts a MaskedLayerNorm in the place of every LayerNorm that a ``widen`` step masked.

    Raises:
        ValueError: if there is no LayerNorm in its place.
    """
    for path, size in detail["built"]["masked"].items():
        norm = _module(model, path)
        if not isinstance(norm, nn.LayerNorm):
            raise ValueError(f"the spec does not fit: {path!r} must be a LayerNorm, got {norm}")
        put_mask(model, path, torch.arange(size) < norm.normalized_shape[0], log)


REBUILDS["widen"] = rebuild_masks
REBUILDS["deepen"] = rebuild_layer
REBUILDS["connect"] = rebuild_connection
