"""Per-sample gradient norms: a formula where there is one, else the module again alone, or a loop.

One file a type of module, one row here.
"""

from torch import nn

from layer_importance._per_sample._formula import Formula
from layer_importance._per_sample.convolution import ConvolutionFormula
from layer_importance._per_sample.embedding import EmbeddingFormula
from layer_importance._per_sample.linear import LinearFormula
from layer_importance._per_sample.norm import NormFormula

FORMULAS: dict[type[nn.Module], Formula] = {
    nn.Linear: LinearFormula(),
    nn.Conv1d: ConvolutionFormula(),
    nn.Conv2d: ConvolutionFormula(),
    nn.Conv3d: ConvolutionFormula(),
    nn.LayerNorm: NormFormula(),
    nn.RMSNorm: NormFormula(),
    nn.GroupNorm: NormFormula(),
    nn.BatchNorm1d: NormFormula(),
    nn.BatchNorm2d: NormFormula(),
    nn.BatchNorm3d: NormFormula(),
    nn.Embedding: EmbeddingFormula(),
}

_TRANSPOSED = LinearFormula(transposed=True)


def formula_of(module: nn.Module) -> Formula | None:
    """Returns the formula for a module; ``None`` if it has none or computes something else."""
    for kind, formula in FORMULAS.items():
        # a subclass with a forward of its own is something else
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return formula if formula.fits(module) else None
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # transformers' linear layer
        return _TRANSPOSED
    return None
