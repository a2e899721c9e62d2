"""Per-sample gradient norms against the loop over samples, for every type of module."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from layer_importance import (
    Classification,
    ParameterEvent,
    ParameterMethod,
    Subject,
    Task,
    discover,
)
from layer_importance._per_sample.reference import reference_norms
from layer_importance._preserve import preserved
from layer_importance._sweep import Sweep


class Recorded(ParameterMethod):
    name = "recorded"
    needs = frozenset({"data", "labels", "per_sample"})
    columns = ("squares", "products")

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, list[tuple[Tensor, ...]]] = {}

    def values(self, event: ParameterEvent) -> tuple[Tensor, ...]:
        found = event.squares.clone(), event.products.clone()
        self.rows.setdefault(event.unit.name, []).append(found)
        return found


class Around(nn.Module):
    """Any unit, and logits from whatever comes out of it, with samples along `axis`."""

    def __init__(self, unit: nn.Module, axis: int = 0) -> None:
        super().__init__()
        self.unit, self.axis = unit, axis

    def forward(self, x: Tensor) -> Tensor:
        y = self.unit(x)
        y = torch.tanh(y if isinstance(y, Tensor) else y[0]).movedim(self.axis, 0).flatten(1)
        weight = torch.linspace(-1, 1, y.shape[1] * 4, dtype=y.dtype).reshape(-1, 4).sin()
        return y @ weight


class CustomNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * x.square().mean(-1, keepdim=True).add(1e-6).rsqrt()


class Gated(nn.Module):
    """Raw parameters beside layers: a gate a channel and a token put in front."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.token = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(1, 1, 6))
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return x + self.gate * torch.relu(self.layer(x))


class Routed(nn.Module):
    """Experts that see as many tokens as the data sends them."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            chosen = (x[..., 0] * 10).long() % 3 == number
            y[chosen] = expert(x[chosen])
        return x + y


class Branching(nn.Module):
    """One parameter whose path through the module depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        chosen = x[..., 0] > 0
        y = x.clone()
        y[chosen] = x[chosen] @ self.weight
        return y


class Twice(nn.Module):
    """One layer, called on all tokens and on some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(6, 6), nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.layer(self.norm(x)), self.layer(self.norm(x[:, :2].sin()))], 1)


class Tied(nn.Module):
    """One weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


class Overwritten(nn.Module):
    """Layers whose outputs are written into."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.act(self.a(x)))
        y += x
        return self.act(y)


class Crossing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(6, 2, batch_first=True, kdim=6, vdim=6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attend(x, x.flip(1), x.cos())[0]


def _tokens(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(*shape)


def _ids() -> Tensor:
    return torch.randint(0, 5, (8, 7))


N = 8
ROWS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], str]] = {
    "a linear layer on vectors": (lambda: nn.Linear(6, 5), _tokens(N, 6), "formula"),
    "a linear layer on few tokens": (lambda: nn.Linear(20, 30), _tokens(N, 3, 20), "formula"),
    "a linear layer on many tokens": (lambda: nn.Linear(3, 4), _tokens(N, 40, 3), "formula"),
    "a linear layer on a grid": (
        lambda: nn.Linear(6, 5, bias=False),
        _tokens(N, 3, 4, 6),
        "formula",
    ),
    "convolution in one dimension": (
        lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2),
        _tokens(N, 4, 11),
        "formula",
    ),
    "convolution in two": (
        lambda: nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(1, 0), bias=False),
        _tokens(N, 4, 5, 6),
        "formula",
    ),
    "convolution with same padding": (
        lambda: nn.Conv2d(2, 3, (3, 4), padding="same", dilation=(1, 2)),
        _tokens(N, 2, 6, 7),
        "formula",
    ),
    "convolution to few places": (
        lambda: nn.Conv2d(8, 16, 3, groups=2),
        _tokens(N, 8, 4, 3),
        "formula",
    ),
    "depthwise convolution": (
        lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
        _tokens(N, 4, 4, 4),
        "formula",
    ),
    "convolution in three dimensions": (
        lambda: nn.Conv3d(2, 4, 2, stride=(1, 2, 1), padding=1, groups=2),
        _tokens(N, 2, 3, 4, 3),
        "formula",
    ),
    "convolution around a circle": (
        lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
        _tokens(N, 2, 4, 4),
        "vmap",
    ),
    "transposed convolution": (
        lambda: nn.ConvTranspose2d(3, 2, 2, stride=2),
        _tokens(N, 3, 3, 3),
        "vmap",
    ),
    "layer norm": (lambda: nn.LayerNorm(6), _tokens(N, 5, 6), "formula"),
    "layer norm over two dimensions": (
        lambda: nn.LayerNorm((5, 6), bias=False),
        _tokens(N, 2, 5, 6),
        "formula",
    ),
    "root mean square norm": (lambda: nn.RMSNorm(6), _tokens(N, 5, 6), "formula"),
    "group norm": (lambda: nn.GroupNorm(2, 6), _tokens(N, 6, 4, 3), "formula"),
    "batch norm": (lambda: nn.BatchNorm1d(6), _tokens(N, 6), "formula"),
    "batch norm on sequences": (lambda: nn.BatchNorm1d(6), _tokens(N, 6, 4), "formula"),
    "batch norm on images": (lambda: nn.BatchNorm2d(6), _tokens(N, 6, 4, 3), "formula"),
    "batch norm without memory": (
        lambda: nn.BatchNorm1d(6, track_running_stats=False),
        _tokens(N, 6),
        "loop",
    ),
    "embedding": (lambda: nn.Embedding(5, 6, padding_idx=2), _ids, "formula"),
    "a norm of its own kind": (lambda: CustomNorm(6), _tokens(N, 5, 6), "vmap"),
    "raw parameters": (Gated, _tokens(N, 5, 6), "vmap"),
    "experts": (Routed, _tokens(N, 5, 6), "loop"),
    "a way that depends on the data": (Branching, _tokens(N, 5, 6), "alone"),
    "two calls": (Twice, _tokens(N, 5, 6), "formula"),
    "tied weights": (Tied, _tokens(N, 5, 6), "loop"),
    "a parametrised weight": (
        lambda: parametrizations.weight_norm(nn.Linear(6, 5)),
        _tokens(N, 6),
        "loop",
    ),
    "a recurrent layer": (lambda: nn.GRU(6, 5, batch_first=True), _tokens(N, 4, 6), "alone"),
    "attention": (Crossing, _tokens(N, 5, 6), "formula"),
    "a transformer layer": (
        lambda: nn.TransformerEncoderLayer(6, 2, 12, batch_first=True),
        _tokens(N, 5, 6),
        "formula",
    ),
    "what is overwritten": (Overwritten, _tokens(N, 5, 6), "formula"),
}


def _run(
    model: nn.Module, batches: list[Any], task: Task | None = None
) -> tuple[Recorded, tuple[Tensor, ...], Sweep, Subject]:
    """What the sweep records, and what the loop over samples says of the first batch."""
    method, task = Recorded(), task or Classification()
    units = discover(model, batches[0], units=["unit"])
    subject = Subject(model, units, task, batches)
    with preserved(model, gradients=True):
        output = subject.forward(batches[0])
        losses = subject.losses(output, batches[0])
        (reference,) = reference_norms(losses, [model.unit])  # type: ignore[list-item]
        with Sweep(subject, [method]) as sweep:
            for batch in batches:
                sweep.run(batch)
    return method, reference, sweep, subject


def _close(got: tuple[Tensor, ...], right: tuple[Tensor, ...], tolerance: float) -> bool:
    squares = ((got[0] - right[0]).abs() <= tolerance * right[0]).all()
    products = ((got[1] - right[1]).abs() <= tolerance * right[1].abs().max()).all()
    return bool(squares and products)


def _case(name: str, dtype: torch.dtype) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(3)
    make, data, _ = ROWS[name]
    unit, x = make(), data()
    for module in unit.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    model = Around(unit).to(dtype).eval()
    return model, (x.to(dtype) if x.is_floating_point() else x, torch.arange(N) % 4)


@pytest.mark.parametrize("name", ROWS)
def test_equals_the_loop_over_samples(name: str) -> None:
    model, batch = _case(name, torch.float64)
    method, reference, sweep, _ = _run(model, [batch])
    assert float(reference[0].min()) > 0
    assert _close(method.rows["unit"][0], reference, 1e-9)
    taken = " ".join(note.split(":")[0] for note in sweep.notes)
    assert f"by {ROWS[name][2]}" in taken


@pytest.mark.parametrize(
    "name", ["a linear layer on few tokens", "convolution in two", "two calls"]
)
def test_single_precision_costs_no_more_than_single_precision(name: str) -> None:
    model, batch = _case(name, torch.float32)
    method, reference, _, _ = _run(model, [batch])
    assert _close(method.rows["unit"][0], reference, 1e-5)


@pytest.mark.parametrize("name", ROWS)
def test_a_batch_tells_what_its_parts_tell(name: str) -> None:
    if name == "batch norm without memory":
        pytest.skip("its samples depend on each other")
    model, (x, labels) = _case(name, torch.float64)
    whole, _, _, _ = _run(model, [(x, labels)])
    parts, _, _, _ = _run(model, list(zip(x.split(3), labels.split(3), strict=True)))
    joined = tuple(torch.cat([row[i] for row in parts.rows["unit"]]) for i in (0, 1))
    assert _close(joined, whole.rows["unit"][0], 1e-9)


def test_samples_may_be_in_another_dimension() -> None:
    torch.manual_seed(0)
    unit = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.LayerNorm(9), nn.Linear(9, 4))

    class Swapped(Around):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.transpose(0, 1))

    model = Swapped(unit, axis=1).double()
    batch = (torch.randn(N, 5, 6, dtype=torch.float64), torch.arange(N) % 4)
    method, reference, sweep, _ = _run(model, [batch])
    assert _close(method.rows["unit"][0], reference, 1e-9)
    assert "by loop" not in " ".join(sweep.notes)


@pytest.mark.parametrize("tokens_first", [False, True])
def test_samples_may_be_flattened_into_tokens(tokens_first: bool) -> None:
    torch.manual_seed(0)

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = x.transpose(0, 1) if tokens_first else x
            y = self.layer(x.reshape(-1, 6)).reshape(x.shape)
            return y.transpose(0, 1) if tokens_first else y

    model = Around(Flat()).double()
    batch = (torch.randn(N, 5, 6, dtype=torch.float64), torch.arange(N) % 4)
    method, reference, sweep, _ = _run(model, [batch])
    assert _close(method.rows["unit"][0], reference, 1e-9)
    # token by token, a formula would take other samples' tokens for a sample's own: it is found out
    assert ("by loop" in " ".join(sweep.notes)) == tokens_first


def test_a_loss_that_couples_samples_is_noticed() -> None:
    class InBatch(Task):
        """Each sample against all others of the batch."""

        name = "in_batch"

        def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
            del labels, batch
            similar = output @ output.T
            return -(similar.diagonal() - similar.logsumexp(1))

    torch.manual_seed(0)
    model = Around(nn.Linear(6, 6)).double()
    batch = (torch.randn(N, 6, dtype=torch.float64), torch.arange(N) % 4)
    method, reference, sweep, _ = _run(model, [batch], InBatch())
    assert _close(method.rows["unit"][0], reference, 1e-9)
    assert "by loop: 1 Linear (differs from the loop over samples)" in sweep.notes[0]


def test_frozen_parameters_do_not_count() -> None:
    model, batch = _case("a transformer layer", torch.float64)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("linear1" in name)
    method, reference, _, _ = _run(model, [batch])
    assert _close(method.rows["unit"][0], reference, 1e-9)
    assert all(p.requires_grad == ("linear1" in n) for n, p in model.named_parameters())


def test_each_call_of_a_shared_module_counts_for_itself() -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 6), CustomNorm(6))

    class Repeats(nn.Module):
        def __init__(self, blocks: list[nn.Module]) -> None:
            super().__init__()
            self.unit = nn.ModuleList(blocks)

        def forward(self, x: Tensor) -> Tensor:
            for one in self.unit:
                x = x + one(x)
            return x[:, 0]

    def copy() -> nn.Module:
        twin = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 6), CustomNorm(6))
        twin.load_state_dict(block.state_dict())
        return twin

    batch = (torch.randn(N, 5, 6, dtype=torch.float64), torch.arange(N) % 6)
    tied, untied = Repeats([block] * 3).double(), Repeats([copy() for _ in range(3)]).double()
    found = []
    for model, paths in ((tied, ["unit.0"]), (untied, ["unit.0", "unit.1", "unit.2"])):
        units = discover(model, batch, units=paths)
        subject = Subject(model, units, Classification(), [batch])
        method = Recorded()
        with preserved(model, gradients=True), Sweep(subject, [method]) as sweep:
            sweep.run(batch)
        found.append([rows[0] for rows in method.rows.values()])
    assert len(found[0]) == len(found[1]) == 3
    assert all(_close(a, b, 1e-9) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("how", ["hook", "forward"])
@pytest.mark.parametrize("tokens", [(), (3,)])
def test_what_is_added_to_a_layers_output_is_none_of_its_weights(
    how: str, tokens: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 6)
    model = Around(layer).double()
    shift = 3 * torch.randn(6, dtype=torch.float64)
    if how == "hook":
        layer.register_forward_hook(lambda module, args, output: output + shift)
    else:
        original = layer.forward
        layer.forward = lambda x: original(x) + shift  # type: ignore[method-assign]
    batch = (torch.randn(N, *tokens, 6, dtype=torch.float64), torch.arange(N) % 4)
    method, reference, sweep, _ = _run(model, [batch])
    assert _close(method.rows["unit"][0], reference, 1e-9)
    assert "by formula" in sweep.notes[0]


def test_products_are_checked_against_the_loop_too() -> None:
    class Shifted(nn.Linear):
        """Adds what no hook of its own shows."""

    torch.manual_seed(0)
    model = Around(Shifted(6, 6)).double()
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, output: output + 3 if isinstance(module, Shifted) else None
    )
    try:
        batch = (torch.randn(N, 6, dtype=torch.float64), torch.arange(N) % 4)
        method, reference, sweep, _ = _run(model, [batch])
    finally:
        handle.remove()
    assert _close(method.rows["unit"][0], reference, 1e-9)
    assert "differs from the loop over samples" in sweep.notes[0]


class TwoWays(nn.Module):
    """Two experts, each run on the tokens that the first channel sends to it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, 6)
        chosen, y = rows[:, 0] > 0, torch.zeros_like(rows)
        y[chosen] = self.a(rows[chosen])
        y[~chosen] = self.b(rows[~chosen])
        return x + y.view_as(x)


@pytest.mark.parametrize("later", [(1, 3, 3, 1), (1, 3, 3, 2), (0, 0, 0, 0)])
def test_experts_that_get_as_many_rows_of_each_sample_by_chance_are_not_mistaken(
    later: tuple[int, ...],
) -> None:
    def batch(counts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        x = torch.randn(4, 4, 6, dtype=torch.float64)
        x[..., 0] = -x[..., 0].abs()
        for sample, count in enumerate(counts):
            x[sample, :count, 0] *= -1
        return x, torch.arange(4)

    torch.manual_seed(0)
    model = Around(TwoWays()).double()
    even, other = batch((2, 2, 2, 2)), batch(later)
    method, _, _, _ = _run(model, [even, other])
    _, reference, _, _ = _run(model, [other])
    assert _close(method.rows["unit"][1], reference, 1e-9)
