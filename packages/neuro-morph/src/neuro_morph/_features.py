"""Which axis of a layer's output holds its features."""

from collections.abc import Sequence

from torch import nn

from neuro_morph._axes import atoms_of
from neuro_morph._graph import GrowthGraph
from neuro_morph._trunk import Trace

_POSITION = "it meets an axis that does not grow"
_FIRST = ("_ConvNd", "_BatchNorm", "_InstanceNorm", "GroupNorm", "_MaxPoolNd", "_AvgPoolNd")


def feature_axis(model: nn.Module, graph: GrowthGraph, path: str, shape: Sequence[int]) -> int:
    """Returns the axis of a module's output that holds its features.

    It is the one made of units of layers; where the program does not tell, the second for images
    and what convolutions give, else the last.
    """
    ref = Trace(graph.program).output_of(path, shape)
    axes = () if ref is None else graph.axes(ref)
    made = [d for d, axis in enumerate(axes) if d > 0 and any(True for _ in atoms_of(axis))]
    if len(made) > 1:
        made = [
            d
            for d in made
            if not all((a.fixed or "").startswith(_POSITION) for a in atoms_of(axes[d]))
        ]
    return made[0] if len(made) == 1 else _usual_axis(model.get_submodule(path), len(shape))


def _usual_axis(module: nn.Module, dims: int) -> int:
    kinds = {kind.__name__ for kind in type(module).__mro__}
    if dims < 3:
        return dims - 1
    return 1 if dims >= 4 or kinds & set(_FIRST) else dims - 1
