"""Random networks: what can be grown is grown exactly, everything else is refused by name."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import Phase, given, settings, strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from neuro_morph import Duplicate, GrowthRefusedError, Morpher, Split, Widen, ZeroFanOut
from neuro_morph.testing import randomized

INITS: dict[str, Any] = {
    "free": ZeroFanOut(),
    "copy": Split(),
    "equal": Duplicate(),
    "masked": ZeroFanOut("masked"),
}


class Grouped(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=2 if width % 2 == 0 else width)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Last(nn.Module):
    """A layer over channels, which stand last for it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Gate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, 3, 1), nn.Conv2d(3, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Attend(nn.Module):
    def __init__(self, width: int, heads: int = 2, size: int = 3) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.q, self.k, self.v = (nn.Linear(width, heads * size) for _ in range(3))
        self.o = nn.Linear(heads * size, width)

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(2).transpose(1, 2)
        n, t, _ = y.shape
        q, k, v = (
            f(y).view(n, t, self.heads, self.size).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, -1)
        return x + self.o(y).transpose(1, 2).view(x.shape)


class Halves(nn.Module):
    """A convolution whose halves gate each other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.conv(x).chunk(2, 1)
        return a * torch.sigmoid(b)


class Shuffle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Resize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(F.avg_pool2d(x, 2), scale_factor=2)


LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "conv": lambda c: nn.Conv2d(c, 5, 3, padding=1),
    "wide": lambda c: nn.Conv2d(c, 6, 1),
    "deep": lambda c: nn.Conv2d(c, c, 3, padding=1, groups=c),
    "twice": lambda c: nn.Conv2d(c, 2 * c, 3, padding=1, groups=c),
    "grouped": Grouped,
    "back": lambda c: nn.ConvTranspose2d(c, 4, 3, padding=1),
    "linear": lambda c: Last(nn.Linear(c, 7)),
    "batch_norm": nn.BatchNorm2d,
    "group_norm": lambda c: nn.GroupNorm(2 if c % 2 == 0 else 1, c),
    "layer_norm": lambda c: Last(nn.LayerNorm(c)),
    "rms_norm": lambda c: Last(nn.RMSNorm(c, eps=1e-6)),
    "relu": lambda c: nn.ReLU(),
    "gelu": lambda c: nn.GELU(),
    "sigmoid": lambda c: nn.Sigmoid(),
    "gate": Gate,
    "attend": Attend,
    "halves": Halves,
    "shuffle": lambda c: Shuffle() if c % 2 == 0 else nn.Identity(),
    "resize": lambda c: Resize(),
    "max_pool": lambda c: nn.MaxPool2d(3, 1, 1),
}


class Net(nn.Module):
    """Layers on a pool of maps: each takes one of the pool, and joins the result to another."""

    def __init__(self, steps: list[tuple[str, int, str, int]], head: str) -> None:
        super().__init__()
        self.first, widths = nn.Conv2d(2, 4, 1), [4]
        self.layers, self.fits = nn.ModuleList(), nn.ModuleDict()
        self.steps, self.head_kind = steps, head
        x = [self.first(torch.zeros(1, 2, 4, 4))]
        for k, (kind, source, join, other) in enumerate(steps):
            layer = LAYERS[kind](widths[source % len(widths)])
            self.layers.append(layer)
            y, z = layer(x[source % len(x)]), x[other % len(x)]
            if join == "add" and y.shape[1] != z.shape[1]:
                self.fits[str(k)] = nn.Conv2d(z.shape[1], y.shape[1], 1, bias=False)
            x.append(self.join(k, join, y, z))
            widths.append(x[-1].shape[1])
        self.head = nn.Linear(widths[-1] * (16 if head == "flatten" else 1), 3)

    def join(self, k: int, how: str, y: Tensor, z: Tensor) -> Tensor:
        if how == "add":
            return y + (self.fits[str(k)](z) if str(k) in self.fits else z)
        return torch.cat([y, z], 1) if how == "cat" else y

    def forward(self, x: Tensor) -> Tensor:
        pool = [self.first(x)]
        for k, (_, source, join, other) in enumerate(self.steps):
            y = self.layers[k](pool[source % len(pool)])
            pool.append(self.join(k, join, y, pool[other % len(pool)]))
        last = pool[-1]
        return self.head(last.flatten(1) if self.head_kind == "flatten" else last.mean((2, 3)))


STEP = st.tuples(
    st.sampled_from(sorted(LAYERS)),
    st.integers(0, 3),
    st.sampled_from(["", "", "add", "cat"]),
    st.integers(0, 3),
)


# shrinking would take minutes: the networks are small as they are
@settings(deadline=None, max_examples=30, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.lists(STEP, min_size=1, max_size=6), st.sampled_from(["flatten", "mean"]), st.data())
def test_random_groups_of_random_networks_grow_exactly_or_are_refused_by_name(
    steps: list[tuple[str, int, str, int]], head: str, data: st.DataObject
) -> None:
    torch.manual_seed(0)
    model, x = randomized(Net(steps, head), torch.randn(2, 2, 4, 4))
    morpher = Morpher(model, example_inputs=x, capture="dispatch")
    for _ in range(2):
        graph, before = morpher.graph, morpher.probe()
        assert all(g.growable or g.reason for g in graph)
        free = [(g, way) for g in graph for way in graph.ways(g)]
        if not free:
            return
        group, way = data.draw(st.sampled_from(free))
        by = group.size if way == "equal" else data.draw(st.integers(1, 3))
        held = {k: v.clone() for k, v in model.state_dict().items()}
        try:
            event = morpher.apply(Widen(group.id, by=by, init=INITS[way]))
        except GrowthRefusedError as refusal:
            after = model.state_dict()
            assert all(torch.equal(after[k], v) for k, v in held.items())
            raise AssertionError(f"{group.id} was said to grow {way}") from refusal
        assert by > 1 or event.parameters_added == group.unit_cost
        assert all(
            float((v - before[k]).abs().max()) <= 1e-12 * max(1.0, float(before[k].abs().max()))
            for k, v in morpher.probe().items()
        )
