"""The architecture of a grown network, replayed into the model it was grown from."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.optim import Optimizer

from neuro_morph._added import enroll
from neuro_morph._atomic import write_atomically
from neuro_morph._sparse_masks import masks_in
from neuro_morph._undo import UndoLog
from neuro_morph._widening import tensors_of
from neuro_morph._wrappers import unwrap

FORMAT = 1

Rebuild = Callable[[nn.Module, dict[str, Any], UndoLog], None]

# what models of this process have grown by; a copy of a model is not in it
_KNOWN: "WeakKeyDictionary[nn.Module, ArchitectureSpec]" = WeakKeyDictionary()

# edits that add modules say here how they are built again, by their op
REBUILDS: dict[str, Rebuild] = {}


@dataclass(frozen=True)
class Step:
    """One edit: what it made of shapes and numbers.

    Attributes:
        op: the kind of edit.
        detail: its settings.
        tensors: tensors that changed their shape: name, old, new.
        attributes: numbers of modules that changed: path, name, new value.
    """

    op: str
    detail: dict[str, Any]
    tensors: list[tuple[str, list[int], list[int]]]
    attributes: list[tuple[str, str, Any]]


@dataclass
class ArchitectureSpec:
    """The edits of a network, one after another, without their numbers.

    A checkpoint of a grown network loads into the class it was grown from: build the model, replay
    the spec, load the state. Neither data nor random numbers are needed.

    Attributes:
        steps: the edits.

    Example:
        >>> import torch
        >>> from neuro_morph import Morpher, Widen
        >>> build = lambda: torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> grown = build()
        >>> morpher = Morpher(grown, example_inputs=torch.ones(1, 4))
        >>> event = morpher.apply(Widen("0", by=2))
        >>> model = morpher.spec.replay(build())
        >>> model.load_state_dict(grown.state_dict())
        <All keys matched successfully>
    """

    steps: list[Step] = field(default_factory=list)

    def to_json(self) -> str:
        """Returns the spec as JSON."""
        return json.dumps({"format": FORMAT, "steps": [asdict(step) for step in self.steps]})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Returns the spec that JSON holds.

        Raises:
            ValueError: if it is no spec, or one of a later format.
        """
        try:
            held = json.loads(text)
            steps = [Step(**step) for step in held["steps"]]
            version = held["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"this is no architecture spec: {error}") from None
        if version != FORMAT:
            raise ValueError(f"format must be {FORMAT}, got {version!r}")
        return cls(steps)

    def save(self, path: str | Path) -> None:
        """Writes the spec to a file, whole or not at all."""
        write_atomically(Path(path), self.to_json().encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Returns the spec in a file.

        Raises:
            ValueError: if it holds none.
        """
        return cls.from_json(Path(path).read_text(encoding="utf-8"))

    def replay(self, model: nn.Module, *optimizers: Optimizer) -> nn.Module:
        """Returns ``model`` with every edit done again: its tensors have the grown shapes.

        New entries are zero; load the state dict of the grown network.

        Args:
            model: the model the network was grown from; of a compiled or parallel one what is
                inside grows.
            optimizers: optimizers of it, which new parameters join as they did.

        Raises:
            ValueError: if the model is not the one the network was grown from; nothing has changed.
        """
        log, inner = UndoLog(), unwrap(model)
        try:
            self.replay_into(inner, log, *optimizers)
        except BaseException:
            log.undo()
            raise
        know_spec(inner, self)
        return model

    @torch.inference_mode(False)
    def replay_into(self, model: nn.Module, log: UndoLog, *optimizers: Optimizer) -> None:
        """Does every edit again, and writes into a log how everything was.

        Raises:
            ValueError: if the model is not the one the network was grown from.
        """
        self._check(model)
        for step in self.steps:
            try:
                _replay(step, model, optimizers, log)
            except (AttributeError, IndexError, KeyError, TypeError) as error:
                raise ValueError(
                    f"the spec does not fit: {step.op} fails with {type(error).__name__}: {error}"
                ) from error

    def check_result(self, model: nn.Module) -> None:
        """Raises ValueError if a model has not the shapes that these edits end with."""
        for name, wanted, held in self._differences(model):
            raise ValueError(
                f"the spec does not fit: after its last edit {name!r} is {wanted}, in the model it "
                f"is {held or 'missing'}"
            )

    def fits_result(self, model: nn.Module) -> bool:
        """Whether a model has the shapes that these edits end with."""
        return not self._differences(model)

    def _differences(self, model: nn.Module) -> list[tuple[str, list[int], list[int] | None]]:
        held = {name: list(tensor.shape) for name, tensor in tensors_of(model).items()}
        last = {name: list(new) for step in self.steps for name, _, new in step.tensors}
        return [(n, shape, held.get(n)) for n, shape in last.items() if held.get(n) != shape]

    def _check(self, model: nn.Module) -> None:
        shapes = {name: list(tensor.shape) for name, tensor in tensors_of(model).items()}
        added = any(_adds(step) for step in self.steps)
        for step in self.steps:
            for name, old, new in step.tensors:
                if name not in shapes and added:
                    continue  # of a module that an edit adds
                if shapes.get(name) != list(old):
                    raise ValueError(
                        f"the spec does not fit: {name!r} must be {list(old)}, got "
                        f"{shapes.get(name, 'no such tensor')}"
                    )
                shapes[name] = list(new)


def _replay(step: Step, model: nn.Module, optimizers: Sequence[Optimizer], log: UndoLog) -> None:
    if _adds(step):
        REBUILDS[step.op](model, step.detail, log)
        enroll(model, optimizers, step.detail.get("added", {}), log)
    held = tensors_of(model)
    masks = masks_in(held)
    for name, _, new in step.tensors:
        log.set_data(held[name], held[name].data.new_zeros(new))
    for name, weight in masks.items():
        log.set_data(held[name], held[name].data.new_zeros(held[weight].shape))
    for path, name, value in step.attributes:
        module = model.get_submodule(path)
        old = getattr(module, name, None)
        log.set_attribute(module, name, tuple(value) if isinstance(old, tuple) else value)


def _adds(step: Step) -> bool:
    return step.op in REBUILDS and "built" in step.detail


def know_spec(model: nn.Module, spec: ArchitectureSpec) -> None:
    """Notes what a model has grown by, for those who grow it further."""
    _KNOWN[model] = spec


def known_spec(model: nn.Module) -> ArchitectureSpec | None:
    """Returns what a model is known to have grown by in this process, None if nothing is."""
    spec = _KNOWN.get(model)
    return spec if spec is not None and spec.fits_result(model) else None
