"""Kinds of arrays every sketch is tested with."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from fd_sketch._arrays import Home


class Kind(NamedTuple):
    """A library and a dtype; `device` runs the code of device arrays on host tensors."""

    library: str
    dtype: str

    def array(self, values: Any) -> Any:
        A = np.array(values, dtype=self.dtype)
        return A if self.library == "numpy" else torch.from_numpy(A)

    @property
    def eps(self) -> float:
        return float(np.finfo(self.dtype).eps)


KINDS = [Kind(a, b) for a in ("numpy", "torch", "device") for b in ("float32", "float64")]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind.library}-{kind.dtype}")
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param.library == "device":
            patch.setattr(Home, "on_host", property(lambda home: home.library == "numpy"))
        yield request.param
