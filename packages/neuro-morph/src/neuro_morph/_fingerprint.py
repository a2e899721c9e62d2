"""What a model is before an edit and after it; the difference is the step in a spec."""

from typing import Any

from torch import nn

from neuro_morph._sparse_masks import masks_in
from neuro_morph._spec import Step
from neuro_morph._widening import tensors_of


class Fingerprint:
    """Shapes of a model's tensors and plain numbers of its modules, as they are now."""

    def __init__(self, model: nn.Module) -> None:
        held = tensors_of(model)
        masks = masks_in(held)  # they follow their weights, also where a network has none yet
        self._shapes = {name: list(t.shape) for name, t in held.items() if name not in masks}
        self._numbers = {
            (path, name): value
            for path, module in model.named_modules()
            for name, value in vars(module).items()
            if name != "training" and _is_plain(value)
        }

    def step_to(self, now: "Fingerprint", op: str, detail: dict[str, Any]) -> Step:
        """Returns the step from here to ``now``."""
        tensors = [
            (name, old, now._shapes[name])
            for name, old in self._shapes.items()
            if name in now._shapes and now._shapes[name] != old
        ]
        attributes = [
            (*key, value)
            for key, value in now._numbers.items()
            if key in self._numbers and self._numbers[key] != value
        ]
        return Step(op, detail, tensors, attributes)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(each) for each in value)
    return value is None or type(value) in (int, float)
