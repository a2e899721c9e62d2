"""Plain text to continue, character by character."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adlrns._datasets import Task, no_more, option, tensors
from adlrns._datasets_text import UNKNOWN
from adlrns._errors import UseError


def open_text(path: Path, options: dict[str, Any]) -> Task:
    """Returns a text to continue, character by character; its last tenth is kept apart.

    Items are windows of ``length`` characters and the same shifted by one. Characters that occur
    nowhere in the first nine tenths are one unknown one.
    """
    length = option(options, "length", 128, int)
    limit = option(options, "limit", None, int)
    no_more(options, "text")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UseError(f"{path}: not readable as UTF-8 text: {error}") from None
    cut = len(text) * 9 // 10
    if cut <= length or len(text) - cut <= length:
        raise UseError(
            f"{path}: must hold more than {10 * (length + 1)} characters, got {len(text)}"
        )
    vocabulary = (UNKNOWN, *sorted(set(text[:cut])))
    numbers = {character: i for i, character in enumerate(vocabulary)}
    codes = torch.tensor([numbers.get(character, 0) for character in text])
    train, valid = (_windows(part, length) for part in (codes[:cut], codes[cut:]))
    fit = {"kind": "decoder", "vocabulary": len(vocabulary), "length": length}
    sets = tensors(*train, most=limit), tensors(*valid)
    return Task(*sets, "language", fit, "perplexity", vocabulary)


def _windows(codes: Tensor, length: int) -> tuple[Tensor, Tensor]:
    count = (len(codes) - 1) // length
    starts = slice(0, count * length)
    return codes[:-1][starts].reshape(count, length), codes[1:][starts].reshape(count, length)
