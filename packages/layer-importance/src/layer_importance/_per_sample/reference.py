"""The specification: a loop over samples for everything."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from layer_importance._per_sample._formula import Norms
from layer_importance._per_sample.loop import loop_norms


def reference_norms(losses: Tensor, modules: Sequence[nn.Module]) -> list[Norms]:
    """Returns ``|g_i|^2`` and ``<g_i, theta>`` over all parameters of each module, ``[N]``.

    One backward pass a sample through the whole graph, nothing assumed.
    """
    found = []
    for module in modules:
        parameters = [p for p in module.parameters() if p.requires_grad]
        norms = loop_norms(losses, parameters)
        zero = torch.zeros(len(losses), dtype=torch.float64, device=losses.device)
        found.append(
            (
                sum((squares for squares, _ in norms), zero),
                sum((products for _, products in norms), zero),
            )
        )
    return found
