"""Models that send parts of the data here or there, and modules that get such a part."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from layer_importance._structure import tensors


class DataDependence(TorchDispatchMode):
    """Notices whether sizes or branches of what runs inside depend on values of the data.

    Attributes:
        found: whether they do.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch loads its compiler, for seconds, when the first operation runs

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs the operation."""
        del types
        if torch.Tag.dynamic_output_shape in func.tags:
            # an index of numbers says how many it takes, a mask does not
            chosen = func.overloadpacket is not torch.ops.aten.index
            self.found |= chosen or any(map(_is_mask, tensors(args[1])))
        self.found |= torch.Tag.data_dependent_output in func.tags
        return func(*args, **(kwargs or {}))


def _is_mask(index: Tensor) -> bool:
    return index.dtype in (torch.bool, torch.uint8)
