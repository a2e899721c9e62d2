"""Recurrent layers grow in their hidden size, and with what they read."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import (
    ArchitectureSpec,
    Duplicate,
    Morpher,
    Split,
    Widen,
    ZeroFanOut,
)
from neuro_morph.testing import randomized

IDS = torch.tensor([[3, 7, 1, 9], [2, 2, 4, 5], [0, 1, 2, 3]])


class Recurrent(nn.Module):
    """An embedding, a recurrent layer, and a head that reads its last output and its state."""

    def __init__(self, kind: Any, **settings: Any) -> None:
        super().__init__()
        self.table, self.between = nn.Embedding(10, 5), nn.Linear(5, 4)
        self.layer = kind(4, 6, batch_first=True, **settings)
        ways = 2 if settings.get("bidirectional") else 1
        self.head, self.state = nn.Linear(6 * ways, 3), nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        out, state = self.layer(torch.tanh(self.between(self.table(ids))))
        state = state[0] if isinstance(state, tuple) else state
        return self.head(out)[:, -1] + self.state(state[-1])


class Normed(Recurrent):
    """The same with the outputs normalised; the states are not used, nor what comes before."""

    def __init__(self, kind: Any, **settings: Any) -> None:
        super().__init__(kind, **settings)
        self.norm = nn.LayerNorm(6)

    def forward(self, ids: Tensor) -> Tensor:
        out, _ = self.layer(self.table(ids)[..., :4])
        return self.head(self.norm(out)).mean(1)


class Cells(nn.Module):
    """A cell called once for each step."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.table, self.cell, self.head = nn.Embedding(10, 4), kind(4, 6), nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        state: Any = None
        for step in self.table(ids).unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class Translator(nn.Module):
    """A decoder that begins with the state of an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.encoder, self.decoder = nn.GRU(4, 6), nn.GRU(4, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids.T)
        return self.head(self.decoder(x, self.encoder(x)[1])[0])


SETTINGS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2},
    {"bidirectional": True, "num_layers": 2},
    {"bias": False, "bidirectional": True},
]
NETS: dict[str, Any] = {
    f"{kind.__name__} {k}": (lambda kind=kind, s=s: Recurrent(kind, **s))
    for kind in (nn.LSTM, nn.GRU, nn.RNN)
    for k, s in enumerate(SETTINGS)
}
NETS |= {
    kind.__name__: (lambda kind=kind: Cells(kind)) for kind in (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
}
NETS["translator"] = Translator
INITS = {"free": (ZeroFanOut(), 2), "copy": (Split(), 2), "equal": (Duplicate(), 0)}


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomized(NETS[name](), IDS)[0].eval()


@pytest.mark.parametrize("name", sorted(NETS))
def test_every_group_grows_in_every_way_twice_and_after_training(name: str) -> None:
    model = built(name)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    morpher = Morpher(model, optimizer, example_inputs=IDS, capture="dispatch")
    hidden = next(g for g in morpher.graph if g.growable and "hh" in " ".join(g.parameters()))
    assert hidden.size == 6
    for way, (init, by) in [*INITS.items(), *INITS.items()]:
        for group in [g for g in morpher.graph if g.growable]:
            assert way in morpher.graph.ways(group)
            event = morpher.apply(Widen(group.id, by=by or group.size, init=init))
            assert event.relative_change is not None
            assert event.relative_change <= 1e-12
        model(IDS).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    layers = [m for m in model.modules() if isinstance(m, nn.RNNBase | nn.RNNCellBase)]
    assert {layer.hidden_size for layer in layers} == {((6 + 2 + 2) * 2 + 2 + 2) * 2}


@pytest.mark.parametrize("name", ["LSTM 2", "GRU 1", "RNN 0", "GRUCell", "translator"])
def test_what_was_grown_replays_and_loads(name: str) -> None:
    model = built(name)
    morpher = Morpher(model, example_inputs=IDS, capture="dispatch")
    group = next(g for g in morpher.graph if g.growable and "hh" in " ".join(g.parameters()))
    morpher.apply(Widen(group.id, by=3))
    spec = ArchitectureSpec.from_json(morpher.spec.to_json())
    fresh = spec.replay(NETS[name]()).double().eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(IDS), model(IDS))


@pytest.mark.parametrize("name", ["LSTM 2", "GRU 0", "RNN 1"])
def test_training_goes_on_as_if_nothing_had_grown(name: str) -> None:
    outputs = []
    for grows in (False, True):
        model = built(name)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        if grows:
            morpher = Morpher(
                model, optimizer, example_inputs=IDS, dynamics="exact", capture="dispatch"
            )
            for group in [g for g in morpher.graph if g.growable]:
                morpher.apply(Widen(group.id, by=group.size, init=Duplicate()))
        for _ in range(20):
            model(IDS).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        outputs.append(model(IDS).detach())
    assert float((outputs[0] - outputs[1]).abs().max()) <= 1e-10


def test_outputs_that_are_normalised_grow_by_doubling_or_are_refused() -> None:
    torch.manual_seed(0)
    model = randomized(Normed(nn.GRU, num_layers=2), IDS)[0].eval()
    unused = ("between", "state")
    morpher = Morpher(model, example_inputs=IDS, capture="dispatch", unused=unused)
    group = next(g for g in morpher.graph if g.growable and "hh" in " ".join(g.parameters()))
    assert "equal" in morpher.graph.ways(group)
    assert "free" not in morpher.graph.ways(group)
    event = morpher.apply(Widen(group.id, by=6, init=Duplicate()))
    assert event.relative_change is not None
    assert event.relative_change <= 1e-12


class Padded(nn.Module):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(4, 6, batch_first=True, **settings), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([3, 2]), batch_first=True)
        return self.head(
            nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0]
        )


def test_packed_sequences_and_projections_are_refused_by_name() -> None:
    x = torch.randn(2, 3, 4)
    projected = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 6, proj_size=2))
    for model in (Padded(), projected):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there is no fast implementation of projections
            graph = Morpher(model, example_inputs=x, capture="dispatch").graph
        reasons = [g.reason for g in graph if "hh" in " ".join(g.parameters())]
        assert reasons
        assert all(reasons)
