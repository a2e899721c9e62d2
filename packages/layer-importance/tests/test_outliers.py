from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layer_importance import MethodScores, analyze
from layer_importance._methods.outliers import Outliers, share

Score = Callable[..., MethodScores]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Layer(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.linear = nn.Linear(*weight.T.shape)
        with torch.no_grad():
            self.linear.weight.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(x)


def test_planted_outliers_are_counted_out_of_all_weights(score_blocks: Score) -> None:
    weight = torch.ones(20, 20)
    weight[3, 5], weight[7, 1] = 50, -80
    signs = normal(64, 20).sign()
    even = Layer(torch.zeros(20, 20))
    scores = score_blocks(Outliers(), [even, Layer(weight)], signs)
    assert scores["blocks.0"].value == 0
    assert scores["blocks.1"].value == pytest.approx(2 / 400)
    assert scores.direction == "diagnostic"


def test_a_loud_input_makes_outliers_of_its_weights(score_blocks: Score) -> None:
    x = normal(64, 20).sign()
    x[:, 4] *= 100
    scores = score_blocks(Outliers(), [Layer(torch.ones(20, 20))], x)
    assert scores["blocks.0"].value == pytest.approx(20 / 400)


def test_the_mean_is_over_all_layers_of_the_unit() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small, self.large = nn.Linear(10, 10), nn.Linear(10, 10)
            with torch.no_grad():
                self.small.weight.fill_(1.0)
                self.large.weight.fill_(100.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.small(x) + self.large(x)

    net = nn.Sequential(Two(), Two())
    batches = [(torch.ones(4, 10), torch.zeros(4).long())]
    scores = analyze(net, batches, methods=[Outliers(factor=1.9)])["outliers"]
    assert scores["0"].value == 0.5  # each layer for itself has none
    assert scores.extras["share_3"]["0"] == 0


def test_convolutions_meet_the_channels_of_their_group() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.b(self.a(x))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(Block(), Block())

        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(x).mean((2, 3))

    net, x = Net().double(), normal(5, 4, 6, 6)
    x[:, 3] *= 20
    scores = analyze(net, [(x, torch.zeros(5).long())], methods=[Outliers()])["outliers"]
    block = net.blocks[0]
    # the size of a weight is that of its product with its channel, one channel at a time
    a = torch.stack(
        [
            block.a.weight[o, i].abs() * x[:, 2 * (o // 4) + i].square().mean().sqrt()
            for o in range(8)
            for i in range(2)
        ]
    )
    hidden = F.conv2d(x, block.a.weight, block.a.bias, padding=1, groups=2)
    b = block.b.weight[:, :, 0, 0].abs() * hidden.square().mean((0, 2, 3)).sqrt()
    truth = share(torch.cat([a.flatten(), b.flatten()]).detach(), 5.0)
    assert scores["blocks.0"].value == pytest.approx(truth)
    assert truth > 0


def test_a_unit_without_layers_is_named_with_the_reason(score_blocks: Score) -> None:
    missing = score_blocks(Outliers(), [lambda x: x], normal(5, 6)).missing
    assert missing == {"blocks.0": "has no linear or convolution layer that was run"}
    with pytest.raises(ValueError, match="factor must be positive, got 0"):
        Outliers(factor=0)


def test_splits_order_merges_and_padding_do_not_matter(
    score_blocks: Score, score_padded: Callable[..., list[MethodScores]]
) -> None:
    x, blocks = normal(90, 6) ** 3, [Layer(normal(6, 6) ** 3), Layer(normal(6, 6, seed=1) ** 3)]

    def method() -> Outliers:
        return Outliers(factor=2)

    whole = score_blocks(method(), blocks, x, split=90)
    assert len({whole[name].value for name in whole}) == 2
    first, second = method(), method()
    score_blocks(first, blocks, x[:20])
    score_blocks(second, blocks, x[20:])
    first.merge(second.state())
    for other in (first.scores(), score_blocks(method(), blocks, x.flip(0), split=7)):
        for name in whole:
            assert other[name] == whole[name]
    short, filled = score_padded(method, blocks)
    for name in short:
        assert filled[name] == short[name]
