"""The argument types of the public functions."""

from typing import Literal, TypeAlias

from torch import Tensor

Rank: TypeAlias = int | Tensor | None
Pair: TypeAlias = int | tuple[int, int]
Padding: TypeAlias = int | tuple[int, int] | Literal["same", "valid"]
