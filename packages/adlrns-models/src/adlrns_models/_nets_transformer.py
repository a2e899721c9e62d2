"""Transformers for sequences of tokens: an encoder that classifies, a decoder that continues."""

from typing import Any

import torch
from torch import Tensor, nn

from adlrns_models._checks import check_int
from adlrns_models._nets_attention import TransformerBlock
from adlrns_models._nets_layers import Layers

KINDS = ("encoder", "decoder")


class Transformer(nn.Module):
    """Tokens ``[B, T]`` to rows ``[B, T, width]``: embeddings, positions, pre-norm blocks."""

    def __init__(self, vocabulary: int, length: int, width: int, blocks: list[nn.Module]):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)

    def rows(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns a row for each token."""
        count, length = tokens.shape[1], self.position.shape[0]
        if count > length:
            raise ValueError(f"tokens must be at most length ({length}) a row, got {count}")
        x = self.embed(tokens) + self.position[:count]
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


class Encoder(Transformer):
    """Tokens ``[B, T]`` to scores ``[B, classes]``, from the mean of the rows that count."""

    def __init__(self, *parts: Any, classes: int):
        super().__init__(*parts)
        self.head = nn.Linear(self.norm.normalized_shape[0], classes)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns scores ``[B, classes]``; ``mask [B, T]`` is True where there is a token."""
        x = self.rows(tokens, mask)
        if mask is None:
            return self.head(x.mean(1))
        weight = mask.unsqueeze(-1).to(x.dtype)
        return self.head((x * weight).sum(1) / weight.sum(1).clamp(min=1.0))


class Decoder(Transformer):
    """Tokens ``[B, T]`` to scores ``[B, T, vocabulary]`` of the token that follows each.

    Attention looks back only. Dynamic layers that decide once a call look at the whole call, so
    what follows can move a row's rank; run them with a rank fixed by budget where that matters.
    """

    def __init__(self, *parts: Any):
        super().__init__(*parts)
        self.head = nn.Linear(self.embed.embedding_dim, self.embed.num_embeddings, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns scores ``[B, T, vocabulary]``."""
        return self.head(self.rows(tokens))


def adlrns_transformer(
    *,
    kind: str = "encoder",
    vocabulary: int = 256,
    length: int = 128,
    classes: int | None = None,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    dropout: float = 0.0,
    dense: bool = False,
    **layer_options: Any,
) -> Encoder | Decoder:
    """Returns a transformer whose attention and MLP layers are dynamic.

    Args:
        kind: ``"encoder"``, which classifies, or ``"decoder"``, which predicts the next token.
        vocabulary: how many tokens there are.
        length: most tokens of a row.
        classes: scores an encoder gives, 2 if missing; a decoder takes none.
        width: of the rows, a multiple of ``heads``.
        depth: blocks.
        heads: of the attention.
        dropout: of what each half of a block adds.
        dense: plain layers in place of dynamic ones, the baseline.
        layer_options: ``r_max``, ``r_min``, ``gate`` and the other keywords of ``DynamicLinear``.

    Raises:
        ValueError, TypeError: for sizes that cannot be, or options that layers do not take.

    Example:
        >>> import torch
        >>> from adlrns_models import adlrns_transformer
        >>> tokens = torch.randint(0, 256, (2, 12))
        >>> adlrns_transformer(width=32, depth=1)(tokens).shape
        torch.Size([2, 2])
        >>> adlrns_transformer(kind="decoder", width=32, depth=1)(tokens).shape
        torch.Size([2, 12, 256])
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    if kind == "decoder" and classes is not None:
        raise TypeError(f"a decoder has as many scores as tokens, got classes={classes}")
    sizes = {"vocabulary": vocabulary, "length": length, "width": width, "depth": depth}
    for name, value in {
        **sizes,
        "heads": heads,
        "classes": 2 if classes is None else classes,
    }.items():
        check_int(name, value, 1)
    layers = Layers(dense=dense, **layer_options)
    blocks = [
        TransformerBlock(width, heads, layers, dropout=dropout, causal=kind == "decoder")
        for _ in range(depth)
    ]
    if kind == "decoder":
        return Decoder(vocabulary, length, width, blocks)
    return Encoder(vocabulary, length, width, blocks, classes=2 if classes is None else classes)
