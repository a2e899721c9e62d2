"""A model without some of its units, and what was checked about it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from layer_importance._execute import files
from layer_importance._execute.cut import Cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """A model without some of its units: what :func:`carry_out` answers with.

    Attributes:
        model: the compressed model; the one handed in is as it was.
        executor: how the units were taken out: ``compact``, ``bypass`` or ``mask``.
        checks: ``forward``, ``cache``, ``generate`` and ``reload``: ``passed``, or ``not
            applicable`` and why.
        attempts: executors that were tried before and what failed.
        removed: names of the units that are gone.
        kept: names of those that stay.
        parameters: number of parameters now; shared ones count once.
        parameters_before: number of parameters of the model handed in.
    """

    model: nn.Module
    executor: str
    checks: Mapping[str, str]
    attempts: Mapping[str, str]
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    parameters: int
    parameters_before: int
    _cut: Cut
    _variant: int
    _source: files.Origin
    _kind: files.Kind

    @property
    def kind(self) -> str:
        """How it is saved: ``plain`` as ``save_pretrained`` does, else ``recipe``.

        A ``recipe`` has a bridge, a bypass or a mask, which no configuration can say: there
        ``save_pretrained`` would write another model and is refused. Use :meth:`save`.
        """
        return self._kind

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the model; :func:`load` reads it. The folder appears whole or not at all.

        A model of ``transformers`` whose configuration can say what it is now is written as
        ``save_pretrained`` does, and ``from_pretrained`` reads it too. Any other is the weights
        that are left and a record of what was taken out of which architecture.

        Raises:
            ValueError: if there is something else at ``folder``, or the state is more than tensors.
        """
        files.save(
            folder,
            self.model,
            cut=self._cut,
            executor=self.executor,
            variant=self._variant,
            source=self._source,
            kind=self._kind,
        )
