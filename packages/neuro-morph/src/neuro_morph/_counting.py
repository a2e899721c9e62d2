"""What a model takes, counted."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from neuro_morph._graph import evaluating
from neuro_morph._inputs import ExampleInputs
from neuro_morph._untouched import untouched


def sizes_of_model(model: nn.Module, inputs: ExampleInputs) -> tuple[int, int]:
    """Returns the parameters of a model and the FLOPs of a run, both counted."""
    counter = FlopCounterMode(display=False)
    with untouched(model), evaluating(model), torch.no_grad(), counter:
        model(*inputs.args, **inputs.kwargs)
    return count_of(model), int(counter.get_total_flops())


def count_of(model: nn.Module) -> int:
    """Returns how many parameters a model has."""
    return sum(p.numel() for p in model.parameters())
