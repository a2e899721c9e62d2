"""An analysis that can be killed and goes on where it was."""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from layer_importance._atomic import write_atomically
from layer_importance._halves import Halved
from layer_importance._method import Method, SweepMethod
from layer_importance._pace import Pace
from layer_importance._scores import MethodScores
from layer_importance._states import Seen, add, seen
from layer_importance._structure import tensors
from layer_importance._subject import Subject
from layer_importance._sweep import Sweep

FORMAT = 1


class Checkpoint(Pace):
    """Keeps what a sweep has seen in one file, written whole or not at all every few batches.

    Args:
        path: the file; where it is there, the analysis goes on from it.
        subject: what is studied.
        methods: the methods, in order.
        every: how many batches lie between two writings.

    Raises:
        ValueError: if the file is damaged, or of another analysis; the message names the
            difference.
    """

    def __init__(
        self, path: str | Path, subject: Subject, methods: Sequence[Method], *, every: int = 8
    ) -> None:
        if every < 1:
            raise ValueError(f"checkpoint_every must be at least 1, got {every}")
        self._path, self._every, self._names = Path(path), every, [m.name for m in methods]
        self._of = _signature(subject, methods)
        self._next, self._kept, self._scores = 0, Seen({}, {}), dict[str, Any]()
        if self._path.exists():
            self._read()

    def begin(self, sweep: Sweep, methods: Sequence[SweepMethod]) -> None:
        """Gives the methods what they had seen."""
        super().begin(sweep, methods)
        add(self._kept, methods)
        if self._next:
            sweep.samples = int(self._kept.facts["samples"])
            sweep.batches = self._next
            sweep.resumed(int(self._kept.facts["backwards"]))

    def mine(self, index: int) -> bool:
        """Whether it was not seen yet."""
        return index >= self._next

    def after(self, index: int) -> None:
        """Writes, if it is time."""
        self._next = index + 1
        if self._next % self._every == 0:
            self._take()

    def end(self) -> None:
        """Writes what the whole sweep has seen."""
        self._take()
        for method in self.methods:
            if isinstance(method, Halved):
                method.batches = self._next

    def known(self, method: Method) -> MethodScores | None:
        """Returns the scores of a method that had run itself to its end."""
        found = self._scores.get(method.name)
        return None if found is None else MethodScores.from_dict(found)

    def ran(self, scores: MethodScores) -> None:
        """Keeps the scores of a method that ran itself."""
        self._scores[scores.method] = scores.to_dict()
        self._write()

    def _take(self) -> None:
        self._kept = seen(self.sweep, self.methods)
        self._write()

    def _write(self) -> None:
        facts = {"format": FORMAT, "of": self._of, "next": self._next, "scores": self._scores}
        kept = Seen(self._kept.tensors, {**self._kept.facts, **facts})
        write_atomically(self._path, kept.to_bytes())

    def _read(self) -> None:
        try:
            found = Seen.from_bytes(self._path.read_bytes())
            if found.facts["format"] != FORMAT:
                raise ValueError(f"format must be {FORMAT}, got {found.facts['format']!r}")
            of = found.facts["of"]
            self._next, self._scores = int(found.facts["next"]), dict(found.facts["scores"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"checkpoint {self._path}: {error}") from error
        for what, here in self._of.items():
            if of.get(what) != here:
                raise ValueError(
                    f"checkpoint {self._path} is of another analysis: {what} was "
                    f"{of.get(what)!r:.200}, is {here!r:.200}"
                )
        self._kept = found


def _signature(subject: Subject, methods: Sequence[Method]) -> dict[str, Any]:
    """What must be the same for an analysis to go on."""
    return {
        "methods": [method.name for method in methods],
        "options": [_options(method) for method in methods],
        "units": subject.units.names,
        "task": _kind(subject.task),
        "modality": None if subject.modality is None else _kind(subject.modality),
        "seed": subject.seed,
        "max_batches": subject.max_batches,
        "first batch": _digest(tensors(subject.first)),
        "model": _digest(subject.model.state_dict().values()),
        "tensors of the model": _facts(subject.model.state_dict()),
        "frozen": [n for n, p in subject.model.named_parameters() if not p.requires_grad],
        "layer-importance": version("layer-importance"),
    }


def _kind(thing: object) -> list[Any]:
    """Class and options of a task or a modality."""
    return [f"{type(thing).__module__}.{type(thing).__qualname__}", _options(thing)]


def _options(thing: object) -> dict[str, Any]:
    plain = (bool, int, float, str, type(None))
    return {name: value for name, value in sorted(vars(thing).items()) if isinstance(value, plain)}


def _facts(state: Mapping[str, Any]) -> str:
    """What bytes do not tell of tensors: names, shapes and types."""
    rows = [(n, tuple(t.shape), str(t.dtype)) for n, t in state.items() if hasattr(t, "dtype")]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def _digest(values: Any) -> str:
    found = hashlib.sha256()
    for tensor in values:
        if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
            flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            found.update(flat.numpy().tobytes())
    return found.hexdigest()
