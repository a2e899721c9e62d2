"""Say what is wrong with the arguments of an embedding."""

import torch
from torch import Tensor

from lowrank_kernels import _checks

_INDICES = (torch.int64, torch.int32)


def sizes_agree(indices: Tensor, table: Tensor, up: Tensor, padding_idx: int | None) -> bool:
    """Test the rules that torch would not notice being broken."""
    V, R = table.shape
    return (
        up.dim() == 2
        and up.shape[1] == R
        and (padding_idx is None or (padding_idx.__class__ is int and -V <= padding_idx < V))
        and indices.is_meta is table.is_meta is up.is_meta
        and table.is_floating_point()
    )


def check_embedding(
    indices: object, table: object, up: object, rank: object, padding_idx: object
) -> None:
    """Raise for arguments that `lowrank_embedding` cannot take."""
    if not isinstance(indices, Tensor):
        raise TypeError(f"indices must be a tensor, got {type(indices).__name__}")
    if indices.dtype not in _INDICES:
        raise TypeError(f"indices must be int64 or int32, got {indices.dtype}")
    _checks.check_tensors({"table": table, "up": up})
    assert isinstance(table, Tensor)
    assert isinstance(up, Tensor)
    for name, tensor, layout in (("table", table, "[V, R]"), ("up", up, "[out, R]")):
        if tensor.dim() != 2:
            raise ValueError(f"{name} must be {layout}, got {list(tensor.shape)}")
    V, R = table.shape
    _checks.fits("up", up, "[out, R]", 1, R=("table", table, 1))
    if indices.device != table.device:
        raise ValueError(
            f"indices must be on the device of table, {table.device}, got {indices.device}"
        )
    _checks.rank_value(rank, R)
    _check_padding(padding_idx, V)
    _check_range(indices, V)


def _check_padding(padding_idx: object, V: int) -> None:
    if padding_idx is None:
        return
    if isinstance(padding_idx, bool) or not isinstance(padding_idx, int):
        raise TypeError(
            f"padding_idx must be an int or None, got {type(padding_idx).__name__} {padding_idx!r}"
        )
    if not -V <= padding_idx < V:
        raise ValueError(f"padding_idx must be in {-V}..{V - 1}, got {padding_idx}")


def _check_range(indices: Tensor, V: int) -> None:
    # a graph has no numbers to look at, and a GPU would have to be waited for
    if torch.compiler.is_compiling() or indices.device.type != "cpu" or not indices.numel():
        return
    low, high = (int(v) for v in indices.aminmax())
    if low < 0 or high >= V:
        raise ValueError(f"indices must be in 0..{V - 1}, got {low if low < 0 else high}")
