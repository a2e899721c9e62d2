"""Analyzers and models that others write, as methods and units of this package."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from layer_importance._batch import Call
from layer_importance._discover import discover
from layer_importance._method import Method, PassMethod
from layer_importance._preserve import preserved
from layer_importance._registry import Registry
from layer_importance._scores import MethodScores, Score
from layer_importance._structure import stream
from layer_importance._subject import Subject


class ImportanceAnalyzer:
    """Base class of an analysis that reads a model and its data as it likes.

    A subclass gives :meth:`analyze`. Registered with an adapter, it runs beside the other methods,
    on a model in evaluation mode that is as it was afterwards.

    Args:
        name: what it is called.

    Example:
        >>> class Norm(ImportanceAnalyzer):
        ...     def __init__(self):
        ...         super().__init__("norm")
        ...     def analyze(self, model, data_loader):
        ...         return {n: float(p.detach().norm()) for n, p in model.named_parameters()}
        >>> Norm().name
        'norm'
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def analyze(self, model: nn.Module, data_loader: Iterable[Any]) -> Mapping[Any, float]:
        """Returns a score for each layer, by its name or its number; more is more important."""
        raise NotImplementedError(f"analyzer {self.name} must have analyze(model, data_loader)")


class AnalyzerRegistry(Registry):
    """The registry of an adapter: takes analyzers as well as methods.

    Attributes:
        added: names that were added, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.added: list[str] = []

    def add_method(self, name: str, method: type[Method] | type[ImportanceAnalyzer]) -> None:
        """Makes a method or an analyzer available under ``name``.

        Raises:
            TypeError: if it is a subclass of neither.
        """
        if isinstance(method, type) and issubclass(method, ImportanceAnalyzer):
            method = as_method(name, method)
        super().add_method(name, method)
        self.added = [*(n for n in self.added if n != name), name]


def as_method(name: str, analyzer: type[ImportanceAnalyzer]) -> type[Method]:
    """Returns an analyzer as a method."""
    return type(analyzer.__name__, (_Analyzed,), {"name": name, "analyzer": analyzer})


class _Analyzed(PassMethod):
    """Scores as an analyzer gives them, of layers that are units."""

    analyzer: ClassVar[Callable[[], ImportanceAnalyzer]]
    needs = frozenset()

    def passes(self, units: int) -> tuple[float, float]:
        """Not known; at least it may look at everything once."""
        del units
        return 1.0, 0.0

    def run(self, subject: Subject, progress: Callable[[str, int], None]) -> MethodScores:
        """Lets it analyze."""
        with torch.enable_grad():
            found = type(self).analyzer().analyze(subject.model, _Batches(subject))
        if not isinstance(found, Mapping):
            raise TypeError(f"analyzer {self.name} must return a dict, got {type(found).__name__}")
        named = {_name(subject, key): float(value) for key, value in found.items()}
        progress(self.name, 1)
        known = {name: named[name] for name in subject.units.names if name in named}
        scores = {n: Score(value) for n, value in known.items() if not math.isnan(value)}
        missing = {
            name: "the analyzer gave NaN" if name in known else "the analyzer gave no score"
            for name in subject.units.names
            if name not in scores
        }
        others = sorted(str(key) for key in named if key not in subject.units.names)
        return self.result(scores, missing=missing | dict.fromkeys(others, "is no unit"))


def _name(subject: Subject, key: Any) -> str:
    names = subject.units.names
    return names[key] if isinstance(key, int) and 0 <= key < len(names) else str(key)


class _Batches:
    """The batches of a subject, as often as one likes."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def __iter__(self) -> Iterator[Any]:
        return self._subject.batches()


class UniversalModel:
    """A model as a row of layers whose outputs can be had.

    A subclass may say which layers there are, as paths in ``self.layers``, in
    ``_initialize_layers``, and how to get at what one hands on, in ``get_layer_output``. Both work
    as they are: layers are then the model's units, found with the first input it sees.

    Args:
        model: any module.

    Attributes:
        layers: paths of the layers, in order; empty until they are known.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)])
        >>> model = UniversalModel(net)
        >>> model.get_layer_output(torch.zeros(2, 4), 1).shape, model.layers
        (torch.Size([2, 4]), ['0.0', '1.0', '2.0'])
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layers: list[str] = []
        self._initialize_layers()

    def _initialize_layers(self) -> None:
        """Sets ``self.layers``; here, they are found with the first input."""

    def get_layer_output(self, x: Any, layer_idx: int) -> Tensor:
        """Returns what the layer of this number hands on for an input; the model stays as it is.

        Args:
            x: what the model is called with: a tensor, a tuple of arguments or keyword arguments.
            layer_idx: number of the layer; -1 is the last.

        Raises:
            IndexError: if there is no such layer.
            ValueError: if it did not run, or hands on no tensor.
        """
        call = Call((), x) if isinstance(x, Mapping) else Call(x if isinstance(x, tuple) else (x,))
        if not self.layers:
            self.layers = discover(self.model, x, call=call).names
        if not -len(self.layers) <= layer_idx < len(self.layers):
            raise IndexError(f"layer_idx must be in 0..{len(self.layers) - 1}, got {layer_idx}")
        path = self.layers[layer_idx]
        found: list[Any] = []
        with preserved(self.model, gradients=False):
            module = self.model.get_submodule(path)
            module.register_forward_hook(lambda module, args, output: found.append(output))
            call.of(self.model)
        output = stream(found[-1]) if found else None
        if output is None:
            raise ValueError(f"layer {path} must hand on a tensor, got {found[-1:]!r:.80}")
        return output
