"""Compressed models in folders: weights in safetensors, everything else in JSON, whole or not."""

import copy
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import nn

from layer_importance._atomic import write_atomically
from layer_importance._execute.cut import Cut
from layer_importance._execute.folders import replacing
from layer_importance._execute.saving import refuse_save_pretrained
from layer_importance._execute.stand_in import Refused
from layer_importance._execute.state import (
    bridge_from,
    described,
    fill,
    saved_buffers,
    unsaved_buffers,
    weights_of,
)
from layer_importance._execute.surgery import ways_of
from layer_importance._units import Unit

FORMAT = 1
RECORD, WEIGHTS = "layer_importance.json", "model.safetensors"
Kind = Literal["plain", "recipe"]
"""``plain``: a folder as ``save_pretrained`` writes it. ``recipe``: the original architecture, what
was taken out of it, and the weights that are left."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model of the original architecture comes from, if its class can be found by name.

    Attributes:
        name: class in ``transformers``; empty for any other model.
        config: its configuration, as it was.
        attention: which attention it runs.
    """

    name: str = ""
    config: Any = None
    attention: str = ""


def origin(model: nn.Module) -> Origin:
    """Returns where a model comes from."""
    config: Any = model.__dict__.get("config")
    name = type(model).__name__
    if not type(model).__module__.startswith("transformers.") or not hasattr(config, "to_dict"):
        return Origin()
    attention = getattr(config, "_attn_implementation", None)
    return Origin(name, copy.deepcopy(config), attention or "")


def save(
    folder: str | os.PathLike[str],
    model: nn.Module,
    *,
    cut: Cut,
    executor: str,
    variant: int,
    source: Origin,
    kind: Kind,
) -> None:
    """Writes a compressed model; the folder appears whole or not at all.

    Raises:
        ValueError: if there is something else at ``folder``, or the state is more than tensors.
    """
    with replacing(Path(folder), RECORD) as new:
        record = {
            "format": FORMAT,
            "package": version("layer-importance"),
            "torch": torch.__version__,
            "kind": kind,
            "executor": executor,
            "variant": variant,
            "class": source.name,
        }
        if kind == "plain":
            model.save_pretrained(new)  # type: ignore[operator]
        else:
            if source.config is not None:
                source.config.save_pretrained(new)
            weights, aliases = weights_of(model)
            safetensors.torch.save_file(weights, new / WEIGHTS, {"format": "pt"})
            record |= {
                "attention": source.attention,
                "units": [asdict(unit) for unit in cut.units],
                "recipes": dict(cut.recipes),
                "calls": dict(cut.calls),
                "bridges": {name: described(bridge) for name, bridge in cut.bridges.items()},
                "aliases": aliases,
                "buffers": sorted(unsaved_buffers(model)),
                "saved_buffers": saved_buffers(model),
                "sha256": _hash(new / WEIGHTS),
            }
        write_atomically(new / RECORD, json.dumps(record, indent=1).encode())


def load(
    folder: str | os.PathLike[str],
    model: nn.Module | Callable[[], nn.Module] | None = None,
    *,
    bridges: Mapping[str, nn.Module] | None = None,
) -> nn.Module:
    """Returns the compressed model in a folder, in evaluation mode.

    Args:
        folder: where :meth:`Compressed.save` wrote it.
        model: a model of the original architecture, which is changed and returned, or what makes
            one; its weights do not matter. Not needed for classes of ``transformers``.
        bridges: modules for bridges of classes other than ``nn.Linear`` and :class:`Bridge`.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: naming file and field, if it holds something else, is damaged, or does not fit
            ``model``.
    """
    folder = Path(folder)
    record = _record(folder / RECORD)
    if record["kind"] == "plain":
        return _class(record["class"]).from_pretrained(folder).eval()
    if _hash(folder / WEIGHTS) != record["sha256"]:
        raise ValueError(f"{folder / WEIGHTS}: sha256 must be that in {RECORD}; it is damaged")
    built = _built(record, model, folder)
    own = dict(bridges or {})
    try:
        cut = Cut(
            units=tuple(_unit(unit) for unit in record["units"]),
            bridges={n: own.get(n) or bridge_from(n, d) for n, d in record["bridges"].items()},
            recipes=record["recipes"],
            reasons={},
            calls=record["calls"],
        )
        ways_of(record["executor"])[record["variant"]](built, cut)
    except (Refused, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{folder / RECORD}: does not fit the model: {error!r}") from error
    fill(
        built,
        safetensors.torch.load_file(folder / WEIGHTS),
        record["aliases"],
        record["buffers"],
        folder / WEIGHTS,
        own=record.get("saved_buffers", ()),
    )
    refuse_save_pretrained(built)
    return built.eval()


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: must be JSON: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        got = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"{path}: format must be {FORMAT}, got {got!r}")
    needed = {"kind", "class"}
    if record.get("kind") != "plain":
        needed |= {
            "executor",
            "variant",
            "units",
            "recipes",
            "calls",
            "bridges",
            "aliases",
            "buffers",
            "sha256",
        }
    if missing := needed - set(record):
        raise ValueError(f"{path}: must have {', '.join(sorted(missing))}")
    return record


def _unit(described: Mapping[str, Any]) -> Unit:
    return Unit(**{field.name: described[field.name] for field in fields(Unit)})


def _built(record: Mapping[str, Any], model: Any, folder: Path) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    if model is not None:
        return model()
    if not record["class"]:
        raise ValueError("model must be given: the folder holds no class that can be built by name")
    kind = _class(record["class"])
    config = kind.config_class.from_pretrained(folder)
    words = {"attn_implementation": record["attention"]} if record["attention"] else {}
    return kind._from_config(config, **words)


def _class(name: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(f"{name} needs transformers: pip install transformers") from error
    kind = getattr(transformers, name, None)
    if not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel):
        raise ValueError(f"class must be a model of transformers, got {name!r}")
    return kind


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
