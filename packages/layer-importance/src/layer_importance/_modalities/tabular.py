"""Rows of a table."""

from typing import Any

import torch

from layer_importance._corruptions import permuted_features
from layer_importance._modality import Modality, first_input, shape_words


class Tabular(Modality):
    """Rows ``[N, D]`` of a table; nothing is padding.

    Spoiled: every column in an order of its own, so that features keep their distribution and lose
    their company. Nets of tables often have no repeated blocks; their units are layers then.
    """

    name = "tabular"

    def recognises(self, batch: Any) -> str:
        """Floats of two dimensions."""
        rows = first_input(batch, "x", "features", "inputs", "numerical")
        fits = rows is not None and rows.is_floating_point() and rows.ndim == 2
        return f"rows {shape_words(rows)}" if fits and rows is not None else ""

    def mask(self, batch: Any, tokens: int, tower: str = "") -> None:
        """None: every row is whole."""
        del batch, tokens, tower

    def corrupt(self, batch: Any, generator: torch.Generator) -> Any:
        """Each column shuffled by itself."""
        return permuted_features(batch, generator)
