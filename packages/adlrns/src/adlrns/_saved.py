"""What the command wrote, opened again."""

from functools import cached_property
from os import PathLike
from pathlib import Path

from torch import nn

from adlrns._inputs import Example, make_up
from adlrns._manifest import Manifest, read_manifest
from adlrns._source import open_source
from adlrns_models import ElasticModel, load_materialized


class Compressed:
    """A folder written by `adlrns compress` or `adlrns demo`. Made by :func:`load`.

    Attributes:
        folder: where it is.
        manifest: what its `adlrns.json` says.
        plain: the network's architecture with weights of no meaning.
    """

    def __init__(self, folder: Path, manifest: Manifest, plain: nn.Module):
        self.folder, self.manifest, self.plain = folder, manifest, plain

    @cached_property
    def elastic(self) -> ElasticModel:
        """The model for all budgets, in eval mode."""
        return ElasticModel.load(self.folder, self.plain).eval()

    @cached_property
    def materialized(self) -> nn.Module:
        """The plain model of the budget it was compressed to, in eval mode."""
        return load_materialized(self.folder, self.plain).eval()

    def __repr__(self) -> str:
        source, budget = self.manifest.source, self.manifest.budget
        return (
            f"<Compressed {str(self.folder)!r} of {source.spec}: {budget.share:g} of its "
            f"{budget.cost}, {budget.form}, ranks {self.manifest.point.ranks}>"
        )

    def example(self, size: int = 2) -> Example:
        """Returns made-up inputs `(args, kwargs)` of the kind that calibration saw."""
        return make_up(self.manifest.inputs, size)


def load(directory: str | PathLike[str], model: nn.Module | None = None) -> Compressed:
    """Returns what `adlrns compress` or `adlrns demo` wrote to a folder.

    Args:
        directory: the folder.
        model: the plain network it was made from, any weights; None has the factory that
            `adlrns.json` names make it.

    Raises:
        RunError: naming file and field, if the folder is damaged or foreign.
        UseError: if the factory cannot be found.
        RunError: if it fails.
    """
    folder = Path(directory)
    manifest = read_manifest(folder)
    return Compressed(folder, manifest, model or open_source(folder, manifest.source))
