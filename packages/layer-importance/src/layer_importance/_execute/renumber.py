"""The numbers that blocks carry, put right after some are gone."""

import itertools
import re
from collections.abc import Sequence

from torch import nn

from layer_importance._hints import is_integer

_INDEX = re.compile(r"\w*(layer|block|cache|depth)_?(idx|id|index|i|no|num|number|pos)|idx|index")


def renumber(blocks: Sequence[nn.Module], kept: Sequence[int]) -> None:
    """Gives every module in the kept blocks the number that goes with its block's new place.

    A number that grows evenly with the place (``layer_idx``, from 0, from 1 or in steps) becomes
    what a block at the new place had; one that grows in another way (the third attention layer
    among mixed blocks) the next of those there were; a number that does not grow stays.

    Args:
        blocks: all blocks of the chain as it was.
        kept: places of those that stay, ascending.
    """
    for (path, name), owners in _numbers(blocks).items():
        new = _renumbered(owners, kept)
        for place, value in new.items():
            setattr(blocks[place].get_submodule(path), name, value)


def _numbers(blocks: Sequence[nn.Module]) -> dict[tuple[str, str], dict[int, int]]:
    """Numbers by where they are in a block and what they are called: place -> value."""
    found: dict[tuple[str, str], dict[int, int]] = {}
    for place, block in enumerate(blocks):
        for path, module in block.named_modules():
            for name, value in vars(module).items():
                if is_integer(value) and _INDEX.fullmatch(name):
                    found.setdefault((path, name), {})[place] = value
    return found


def _renumbered(owners: dict[int, int], kept: Sequence[int]) -> dict[int, int]:
    values = list(owners.values())
    if any(b <= a for a, b in itertools.pairwise(values)):
        return {}
    remaining = [place for place in kept if place in owners]
    if (line := _line(owners)) is not None:
        step, start = line
        return {place: start + step * kept.index(place) for place in remaining}
    return dict(zip(remaining, values, strict=False))


def _line(owners: dict[int, int]) -> tuple[int, int] | None:
    """Step and start of numbers that grow evenly with the place."""
    (place, value), *others = owners.items()
    if not others:  # one number alone: it counts places if it is one
        return (1, value - place) if value - place in (0, 1) else None
    step, rest = divmod(others[0][1] - value, others[0][0] - place)
    start = value - step * place
    even = not rest and all(v == start + step * p for p, v in owners.items())
    return (step, start) if even else None
