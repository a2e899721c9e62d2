"""How much two sequences of tokens have in common."""

import torch
from torch import Tensor


def rouge_l(guesses: Tensor, labels: Tensor, real: Tensor) -> Tensor:
    """Returns the F1 of the longest common subsequence of every row's real tokens, ``[N]``.

    ``2 LCS / (len(guess) + len(label))``: Lin, ROUGE, 2004, eq. 4 with beta 1.
    """
    found = []
    for guess, label, keep in zip(guesses.tolist(), labels.tolist(), real.tolist(), strict=True):
        a = [token for token, kept in zip(guess, keep, strict=True) if kept]
        b = [token for token, kept in zip(label, keep, strict=True) if kept]
        found.append(2 * common_subsequence(a, b) / max(len(a) + len(b), 1))
    return torch.tensor(found, dtype=torch.float64, device=guesses.device)


def common_subsequence(a: list[int], b: list[int]) -> int:
    """Returns the length of the longest common subsequence.

    >>> common_subsequence([1, 2, 3, 4], [2, 4, 3, 4])
    3
    """
    row = [0] * (len(b) + 1)
    for token in a:
        above_left = 0
        for place, other in enumerate(b, 1):
            above = row[place]
            row[place] = above_left + 1 if token == other else max(above, row[place - 1])
            above_left = above
    return row[-1]
