"""An undo log: what was touched, as it was, put back bit for bit."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from neuro_morph._attributes import AttributeEdit
from neuro_morph._contents import set_contents

_MISSING = object()


def whatever_comes(put_back: Callable[[], None]) -> None:
    """Puts something back; what cuts it short, an interrupt, say, is raised when that is done."""
    try:
        put_back()
    except BaseException:
        put_back()
        raise


class UndoLog:
    """Values as they were before they were touched; the first one written for each counts."""

    def __init__(self) -> None:
        self._data: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}
        self._items: list[tuple[dict[Any, Any], Any, Any]] = []
        self._attributes: list[tuple[nn.Module, str, Any]] = []

    def set_data(self, tensor: Tensor, data: Tensor) -> None:
        """Gives a parameter or buffer new contents, of another shape if need be."""
        self._data.setdefault(id(tensor), (tensor, tensor.data, tensor.grad))
        tensor.grad = None
        set_contents(tensor, data)

    def data_before(self, tensor: Tensor) -> Tensor:
        """Returns the contents a tensor had before it was touched."""
        found = self._data.get(id(tensor))
        return tensor.data if found is None else found[1]

    def set_item(self, holder: dict[Any, Any], key: Any, value: Any) -> None:
        """Sets an entry of a dictionary."""
        self._items.append((holder, key, holder.get(key, _MISSING)))
        holder[key] = value

    def set_attribute(self, module: nn.Module, name: str, value: Any) -> None:
        """Sets an attribute of a module."""
        self._attributes.append((module, name, getattr(module, name, _MISSING)))
        setattr(module, name, value)

    def set_attributes(self, model: nn.Module, edits: list[AttributeEdit]) -> None:
        """Sets attributes of modules of a model."""
        for edit in edits:
            self.set_attribute(model.get_submodule(edit.path), edit.name, edit.new)

    def undo(self) -> None:
        """Puts everything back; the log is empty afterwards."""
        whatever_comes(self._put_back)

    def _put_back(self) -> None:
        for module, name, value in reversed(self._attributes):
            if value is _MISSING:
                vars(module).pop(name, None)
            else:
                setattr(module, name, value)
        for holder, key, value in reversed(self._items):
            if value is _MISSING:
                holder.pop(key, None)
            else:
                holder[key] = value
        for tensor, data, grad in self._data.values():
            set_contents(tensor, data)
            tensor.grad = grad
        self._attributes, self._items, self._data = [], [], {}

    def nbytes(self) -> int:
        """Returns the bytes of the tensors that are kept."""
        return sum(data.numel() * data.element_size() for _, data, _ in self._data.values())
