"""A grown network and its optimizers in one file, loaded into the network it was grown from."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from neuro_morph._arguments import check_kind
from neuro_morph._atomic import write_atomically
from neuro_morph._optimizer_file import joined_state, settings_of, tensors_of_state
from neuro_morph._packing import packed, unpacked
from neuro_morph._rebuilding import why_not_rebuilt
from neuro_morph._run_arguments import check_file
from neuro_morph._slots import tables_of
from neuro_morph._snapshot import Snapshot
from neuro_morph._spec import ArchitectureSpec, know_spec, known_spec
from neuro_morph._wrappers import unwrap


def save_checkpoint(
    path: str | Path, model: nn.Module, spec: ArchitectureSpec, *optimizers: Optimizer
) -> None:
    """Writes a grown model, its spec and its optimizers to a file, whole or not at all.

    What a :class:`Morpher` lets the optimizers see otherwise than it is (``dynamics="exact"``,
    units that come in slowly) is in the file as well. :meth:`Morpher.save` writes a whole run.

    Args:
        path: the file (safetensors).
        model: the model; of a compiled or parallel one what is inside is written.
        spec: its edits (``Morpher.spec``).
        optimizers: what trains it.

    Raises:
        TypeError: if an argument is of another kind, or an optimizer, or the extra state of a
            module, holds something that is neither a tensor nor a plain value.
        ValueError: if the spec is not that of the model, or it cannot be built again from it;
            nothing is written then.
    """
    check_file(path, model, optimizers)
    check_kind(ArchitectureSpec, spec=spec)
    write(Path(path), unwrap(model), spec, optimizers, {})


def write(
    path: Path,
    model: nn.Module,
    spec: ArchitectureSpec,
    optimizers: Iterable[Optimizer],
    more: dict[str, Any],
) -> None:
    """Writes a checkpoint with more state beside it, which :func:`read_into` returns."""
    optimizers = list(optimizers)
    _check(model, spec)
    state = model.state_dict()
    tensors = {f"model.{name}": t for name, t in state.items() if isinstance(t, Tensor)}
    extra = {name: value for name, value in state.items() if not isinstance(value, Tensor)}
    for k, optimizer in enumerate(optimizers):
        tensors |= {f"optimizer.{k}.{name}": t for name, t in tensors_of_state(optimizer).items()}
    beside = {"extra": extra, "slots": _slots_of(model, optimizers), "more": more}
    held = {
        "spec": spec.to_json(),
        "optimizers": json.dumps([settings_of(o) for o in optimizers]),
        "beside": json.dumps({k: packed(v, k, tensors) for k, v in beside.items()}),
    }
    apart = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    write_atomically(path, save(apart, metadata=held))


def load_checkpoint(path: str | Path, model: nn.Module, *optimizers: Optimizer) -> ArchitectureSpec:
    """Fills a model, as its class makes it, with a grown checkpoint; returns the edits.

    A :class:`Morpher` that grows the model further goes on with them: ``Morpher(model, ...,
    spec=load_checkpoint(...))``.

    Args:
        path: a file of :func:`save_checkpoint`.
        model: the model the network was grown from: its edits are done again.
        optimizers: optimizers of the model, as many as were saved; none to leave theirs.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if the file is no checkpoint, or one of another model or other optimizers, or
            if its optimizers see parameters otherwise than they are, and no :class:`Morpher` was
            made with the optimizers given; nothing has changed then.
    """
    check_file(path, model, optimizers)
    return read_into(Path(path), unwrap(model), optimizers)[0]


def read_into(
    path: Path, model: nn.Module, optimizers: Iterable[Optimizer]
) -> tuple[ArchitectureSpec, Any]:
    """Fills a model and optimizers from a checkpoint; returns the edits and what is beside it."""
    optimizers = list(optimizers)
    tensors, held = _read(path)
    try:
        spec, settings, beside = _decoded(tensors, held)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no checkpoint of a grown network: {error}") from None
    if optimizers and len(optimizers) != len(settings):
        raise ValueError(f"optimizers must be {len(settings)}, got {len(optimizers)}")
    tables = tables_of(model, optimizers)
    if beside["slots"] and optimizers and not tables:
        raise ValueError(
            f"the optimizers in {path} see parameters otherwise than they are: make a Morpher with "
            "model and optimizers first, and let its load(path) fill them"
        )
    kept = Snapshot(model, optimizers, tables)
    try:
        spec.replay(model, *optimizers)
        model.load_state_dict({**_below("model.", tensors), **beside["extra"]})
        for k, optimizer in enumerate(optimizers):
            state = joined_state(settings[k], _below(f"optimizer.{k}.", tensors))
            optimizer.load_state_dict(state)
        for table in tables[-1:]:
            table.load_state_dict(beside["slots"])
    except BaseException as error:
        kept.restore()
        if isinstance(error, RuntimeError | KeyError):
            raise ValueError(f"{path} is of another model or other optimizers: {error}") from error
        raise
    know_spec(model, spec)
    return spec, beside["more"]


def _check(model: nn.Module, spec: ArchitectureSpec) -> None:
    """Raises ValueError if what is written could not be loaded."""
    spec.check_result(model)
    known = known_spec(model)
    if known is not None and len(known.steps) > len(spec.steps):
        raise ValueError(
            f"spec must hold all edits of the model, which are {len(known.steps)}, got "
            f"{len(spec.steps)}: give Morpher the spec that load_checkpoint returned"
        )
    for step in spec.steps:
        if (why_not := why_not_rebuilt(step)) is not None:
            raise ValueError(f"the network cannot be loaded again: {why_not}")


def _decoded(
    tensors: dict[str, Tensor], held: dict[str, str]
) -> tuple[ArchitectureSpec, list[Any], dict[str, Any]]:
    beside: dict[str, Any] = {"extra": {}, "slots": {}, "more": {}}
    found = json.loads(held.get("beside", "{}"))
    beside |= {key: unpacked(value, tensors) for key, value in found.items()}
    return ArchitectureSpec.from_json(held["spec"]), json.loads(held["optimizers"]), beside


def _slots_of(model: nn.Module, optimizers: Iterable[Optimizer]) -> dict[str, Any]:
    states = [table.state_dict() for table in tables_of(model, optimizers)]
    held = [state for state in states if state]
    if len(held) > 1:
        raise ValueError("two runs grow the model with dynamics of their own: call release() first")
    return held[0] if held else {}


def _below(lead: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Returns the tensors whose names begin with ``lead``, without it."""
    return {n.removeprefix(lead): t for n, t in tensors.items() if n.startswith(lead)}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            held = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no checkpoint: {error}") from None
    if "optimizers" not in held:
        raise ValueError(f"{path} is no checkpoint of a grown network")
    return tensors, held
