"""What a training loop has handed over of its layers: activations, gradients, targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from neuro_morph._attributes import sizes_of

Given = Mapping[str, Tensor] | Sequence[Tensor | None]
_EXAMPLES = 256  # that are kept of a batch
_UNITS = ("out_features", "out_channels", "num_features", "num_channels", "embedding_dim", "nf")


@dataclass
class LayerCaches:
    """The latest batch that was handed over, finite throughout.

    Attributes:
        activations: what layers gave, by their paths; examples on the first axis.
        gradients: the gradient of the batch's mean loss at what layers gave.
        targets: the targets of the batch, None if there are none.
        batch: how many examples the batch had: a gradient of its mean loss, times this, is the
            example's own.
        spoiled: whether the last batch was left out because of a number that is not finite.
    """

    activations: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    targets: Tensor | None = None
    batch: int = 0
    spoiled: bool = False

    def update(
        self, model: nn.Module, activations: Given, gradients: Given, targets: Tensor | None
    ) -> None:
        """Takes a batch in the place of the last one.

        A batch with a number that is not finite is left out, and the one before stays.

        Args:
            model: the model.
            activations: what layers gave, by their paths, or in the order of the model's layers
                (all modules that hold no others, or those of them that have parameters).
            gradients: the gradients at what they gave, in the same way; empty for none.
            targets: the targets, one for each example; None for none.

        Raises:
            TypeError: for what is no tensor of floating point numbers.
            ValueError: for the name of no layer, lists of another length, an activation without the
                layer's units, a gradient of another shape than its layer's activation, other
                numbers of examples.
        """
        given = _named(model, activations, "activations")
        found = _named(model, gradients, "gradients")
        if not given:
            raise ValueError("activations must hold those of at least one layer")
        _check_units(model, given)
        _check_shapes(given, found)
        examples = _check_targets(targets, given)
        held = [*given.values(), *found.values()]
        self.spoiled = not all(bool(t.isfinite().all()) for t in held)
        if not self.spoiled:
            self.activations = {name: _kept(t, examples) for name, t in given.items()}
            self.gradients = {name: _kept(t, examples) for name, t in found.items()}
            self.targets = None if targets is None else _kept(targets.detach(), examples)
            self.batch = examples

    def clear(self) -> None:
        """Forgets everything: the layers are others now."""
        self.activations, self.gradients, self.targets = {}, {}, None

    @property
    def examples(self) -> int:
        """How many examples of the batch are kept."""
        return min(self.batch, _EXAMPLES)


def _named(model: nn.Module, given: Any, argument: str) -> dict[str, Tensor]:
    modules = dict(model.named_modules())
    if given is None:
        return {}
    if isinstance(given, Mapping):
        named = dict(given)
    elif isinstance(given, Sequence) and not isinstance(given, str):
        layers = _layers(modules, len(given), argument) if given else []
        named = dict(zip(layers, given, strict=True))
    else:
        raise TypeError(
            f"{argument} must be a mapping or a list of tensors, got {type(given).__name__}"
        )
    for name, value in named.items():
        if name not in modules or not name:
            known = ", ".join(list(modules)[1:])
            raise ValueError(f"{argument} must be named by layers among {known}; got {name!r}")
        if value is not None and not (isinstance(value, Tensor) and value.is_floating_point()):
            raise TypeError(f"{argument}[{name!r}] must be a tensor of floats, got {value!r}")
    return {name: value.detach() for name, value in named.items() if value is not None}


def _layers(modules: dict[str, nn.Module], count: int, argument: str) -> list[str]:
    leaves = [name for name, m in modules.items() if name and not any(m.children())]
    trained = [n for n in leaves if any(True for _ in modules[n].parameters())]
    for layers in (leaves, trained):
        if len(layers) == count:
            return layers
    raise ValueError(
        f"{argument} must be one for each of the {len(leaves)} layers, or of the {len(trained)} "
        f"with parameters, or named; got a list of {count}"
    )


def _check_units(model: nn.Module, activations: dict[str, Tensor]) -> None:
    for path, value in activations.items():
        sizes = sizes_of(model.get_submodule(path))
        units = next((sizes[name] for name in _UNITS if name in sizes), None)
        if units is not None and units not in value.shape[1:]:
            raise ValueError(
                f"activations[{path!r}] must have the layer's {units} units, got shape "
                f"{tuple(value.shape)}"
            )


def _check_shapes(activations: dict[str, Tensor], gradients: dict[str, Tensor]) -> None:
    for name, value in activations.items():
        if value.dim() < 2:
            raise ValueError(
                f"activations[{name!r}] must have examples and features, got shape "
                f"{tuple(value.shape)}"
            )
    for name, value in gradients.items():
        wanted = activations[name].shape if name in activations else None
        if value.shape != wanted:
            asked = "given as well" if wanted is None else f"of shape {tuple(wanted)}"
            raise ValueError(
                f"gradients[{name!r}] must be at what the layer gave, with its activation {asked}; "
                f"got shape {tuple(value.shape)}"
            )


def _check_targets(targets: Any, activations: dict[str, Tensor]) -> int:
    examples = len(next(iter(activations.values())))
    if targets is not None and (not isinstance(targets, Tensor) or targets.dim() < 1):
        raise TypeError(f"targets must be a tensor with one row for each example, got {targets!r}")
    if targets is not None and len(targets) not in {len(t) for t in activations.values()}:
        raise ValueError(f"targets must be {examples}, one for each example; got {len(targets)}")
    return examples if targets is None else len(targets)


def _kept(value: Tensor, examples: int) -> Tensor:
    """Returns a copy of the first examples, of everything where examples are not on the axis."""
    with torch.no_grad():
        return value[:_EXAMPLES].clone() if len(value) == examples else value.clone()
