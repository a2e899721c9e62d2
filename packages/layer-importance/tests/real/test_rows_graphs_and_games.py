import csv
import io
import math
import pickle
import zlib
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn

from layer_importance._discover import discover
from layer_importance._modalities.tabular import Tabular
from layer_importance._tasks.classification import Classification
from layer_importance._tasks.recommendation import Recommendation
from layer_importance._tasks.reinforcement_learning import ReinforcementLearning


class _Arrays(pickle.Unpickler):
    """Admits what the published files hold, and nothing else."""

    def find_class(self, module, name):
        if module.split(".")[0] not in ("numpy", "scipy") and (module, name) not in (
            ("collections", "defaultdict"),
            ("__builtin__", "list"),
        ):
            raise pickle.UnpicklingError(f"{module}.{name} is not admitted")
        if (module, name) == ("collections", "defaultdict"):
            return defaultdict
        # where older releases had them
        module = module.replace("scipy.sparse.csr", "scipy.sparse").replace(
            "numpy.core", "numpy._core"
        )
        return list if name == "list" else super().find_class(module, name)


@pytest.fixture(scope="module")
def citations(data_dir):
    """Cora: words of 2,708 papers, who cites whom, and their subjects."""

    def load(part):
        raw = (data_dir / "cora-planetoid" / f"ind.cora.{part}").read_bytes()
        return _Arrays(io.BytesIO(raw), encoding="latin1").load()

    words = np.concatenate([load("allx").toarray(), load("tx").toarray()])
    subjects = np.concatenate([load("ally"), load("ty")]).argmax(1)
    test = np.loadtxt(data_dir / "cora-planetoid" / "ind.cora.test.index", dtype=int)
    words[test], subjects[test] = words[np.sort(test)], subjects[np.sort(test)]
    edges = {(a, b) for a, near in load("graph").items() for b in near}
    edges |= {(b, a) for a, b in edges}
    return {
        "x": torch.tensor(words).float(),
        "edge_index": torch.tensor(sorted(edges)).T.contiguous(),
        "y": torch.tensor(subjects),
    }


@pytest.fixture(scope="module")
def incomes(data_dir):
    """Numbers and hashed categories of 800 people, and who earns over 50K."""
    with (data_dir / "adult" / "adult.data").open() as file:
        rows = [row for row in csv.reader(file, skipinitialspace=True) if row][:800]
    numbers = torch.tensor([[float(row[i]) for i in (0, 4, 10, 11, 12)] for row in rows])
    numbers = (numbers - numbers.mean(0)) / numbers.std(0)
    sorts = torch.zeros(len(rows), 16)
    for place, row in enumerate(rows):
        for column in (1, 3, 5, 6, 7, 8, 9):
            sorts[place, zlib.crc32(f"{column}{row[column]}".encode()) % 16] = 1
    labels = torch.tensor([row[14].startswith(">") for row in rows]).long()
    return torch.cat([numbers, sorts], 1), labels


@pytest.fixture(scope="module")
def likings(data_dir):
    """What 300 users liked among the 200 films most rated: all but the last, and the last."""
    with (data_dir / "ml-latest-small" / "ratings.csv").open() as file:
        rows = [
            (int(r["userId"]), int(r["movieId"]), float(r["rating"]), int(r["timestamp"]))
            for r in csv.DictReader(file)
        ]
    counts = defaultdict(int)
    for _, film, _, _ in rows:
        counts[film] += 1
    places = {film: i for i, film in enumerate(sorted(counts, key=lambda f: -counts[f])[:200])}
    liked = defaultdict(list)
    for user, film, rating, when in rows:
        if film in places and rating >= 4:
            liked[user].append((when, places[film]))
    histories = [sorted(one) for one in liked.values() if len(one) >= 3][:300]
    seen = torch.zeros(len(histories), 200)
    for user, films in enumerate(histories):
        seen[user, [film for _, film in films[:-1]]] = 1
    return seen, torch.tensor([films[-1][1] for films in histories])


@pytest.fixture
def row_net(residual):
    class RowNet(nn.Module):
        """Reads the first columns of a row."""

        def __init__(self, columns, answers, width=32):
            super().__init__()
            self.columns, self.stem = columns, nn.Linear(columns, width)
            self.blocks = nn.ModuleList([residual(width) for _ in range(3)])
            self.head = nn.Linear(width, answers)

        def forward(self, x):
            x = self.stem(x[:, : self.columns])
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    return RowNet


def in_batches(*parts, size):
    return list(zip(*(part.split(size) for part in parts), strict=True))


def test_tables_the_useless_block_is_found_and_unread_columns_are_not_missed(
    incomes, row_net, train, verdict, scores, same
):
    rows, labels = incomes
    net, task = row_net(12, 2), Classification()
    batches = in_batches(rows, labels, size=200)
    train(net, batches, task, steps=60)
    found = verdict(net, batches, task, modality="tabular")
    spoilt = Tabular().corrupt((rows, labels), torch.Generator().manual_seed(0))[0]
    unread = torch.cat([rows[:, :12], spoilt[:, 12:]], 1)
    assert not torch.equal(unread, rows)
    same(found, scores(net, in_batches(unread, labels, size=200), task), tolerance=0)
    read = torch.cat([spoilt[:, :12], rows[:, 12:]], 1)
    assert task.loss(net(read), labels, None).mean() > task.loss(net(rows), labels, None).mean()


def test_a_net_of_tables_without_blocks_has_its_layers_as_units(incomes, train, scores):
    rows, labels = incomes
    net = nn.Sequential(
        nn.Linear(21, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)
    )
    batches = in_batches(rows, labels, size=200)
    train(net, batches, Classification(), useless=[])
    assert [unit.kind for unit in discover(net, batches[0])] == ["leaf"] * 3
    found = scores(net, batches, Classification())["layer_ablation"]
    assert found["2"].value > 0


@pytest.fixture
def graph_net():
    class Passing(nn.Module):
        """``x + out(relu(inner(mean of the neighbours)))``."""

        def __init__(self, width):
            super().__init__()
            self.inner, self.out = nn.Linear(width, width), nn.Linear(width, width)

        def forward(self, x, edge_index):
            source, target = edge_index
            degree = torch.bincount(target, minlength=len(x)).clamp_min(1)[:, None]
            near = torch.zeros_like(x).index_add(0, target, x[source]) / degree
            return x + self.out(torch.relu(self.inner(near)))

    class GraphNet(nn.Module):
        def __init__(self, words, width=16):
            super().__init__()
            self.stem, self.head = nn.Linear(words, width), nn.Linear(width, 7)
            self.blocks = nn.ModuleList([Passing(width) for _ in range(3)])

        def forward(self, x, edge_index):
            x = torch.relu(self.stem(x))
            for block in self.blocks:
                x = block(x, edge_index)
            return self.head(x)

    return GraphNet


def test_graphs_the_useless_block_is_found_and_the_order_of_nodes_does_not_matter(
    citations, graph_net, train, verdict, scores, same
):
    labels = torch.where(torch.arange(2708) < 1000, citations["y"], -100)
    graph = {**citations, "y": labels}
    net, task = graph_net(graph["x"].shape[1]), Classification()
    train(net, [graph], task, steps=40, lr=1e-2)
    found = verdict(net, [graph], task)
    assert found["layer_ablation"]["blocks.0"].samples == 2708
    order = torch.randperm(2708)
    place = torch.empty_like(order)
    place[order] = torch.arange(2708)
    other = {"x": graph["x"][order], "edge_index": place[graph["edge_index"]], "y": labels[order]}
    same(found, scores(net, [other], task))
    # papers that were not learnt from, by the company they keep
    guesses = net(graph["x"], graph["edge_index"]).argmax(1)
    unseen = (guesses == citations["y"])[1000:].float().mean()
    most = torch.bincount(citations["y"]).max() / 2708
    assert unseen > most


@pytest.mark.parametrize("objective", ["softmax", "bpr"])
def test_films_the_useless_block_is_found(objective, likings, row_net, train, verdict):
    seen, last = likings
    net, task = row_net(200, 200), Recommendation(objective=objective)
    batches = in_batches(seen, last, size=100)
    before = task.quality(net(seen), last, None).mean()
    train(net, batches, task, steps=40)
    verdict(net, batches, task, modality="tabular")
    assert task.quality(net(seen), last, None).mean() > before


def step(state, action):
    """One step of the cart-pole of Barto, Sutton and Anderson (1983), for many at once."""
    _, speed, angle, turning = state.unbind(1)
    force = torch.where(action == 1, 10.0, -10.0)
    sine, cosine = angle.sin(), angle.cos()
    pushed = (force + 0.05 * turning.square() * sine) / 1.1
    turned = (9.8 * sine - cosine * pushed) / (0.5 * (4 / 3 - 0.1 * cosine.square() / 1.1))
    moved = pushed - 0.05 * turned * cosine / 1.1
    change = torch.stack([speed, moved, turning, turned], 1)
    state = state + 0.02 * change
    done = (state[:, 0].abs() > 2.4) | (state[:, 2].abs() > 12 * math.pi / 180)
    return state, done


def play(policy, steps=50, count=48):
    """States, actions and returns while the pole stands, one row a step."""
    state = torch.rand(count, 4) * 0.1 - 0.05
    standing, states, actions, alive = torch.ones(count).bool(), [], [], []
    for _ in range(steps):
        with torch.no_grad():
            action = torch.distributions.Categorical(logits=policy(state)).sample()
        states.append(state)
        actions.append(action)
        alive.append(standing)
        state, done = step(state, action)
        standing = standing & ~done
    alive = torch.stack(alive)
    returns = alive.float().flip(0).cumsum(0).flip(0)
    return torch.cat(states), torch.cat(actions), returns, alive


def test_cart_pole_the_useless_block_is_found_in_a_policy_that_learnt(row_net, train, verdict):
    policy, task = row_net(4, 2, width=16), ReinforcementLearning()
    scale = torch.tensor([1.0, 1.0, 10.0, 1.0])
    policy.register_forward_pre_hook(lambda module, args: (args[0] * scale,))
    train(policy, [], task, steps=0)
    optimizer = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], lr=1e-2)
    lasted = []
    for _ in range(20):
        states, actions, returns, alive = play(policy)
        lasted.append(returns[0].mean())
        gains = returns - (returns * alive).sum(1, keepdim=True) / alive.sum(
            1, keepdim=True
        ).clamp_min(1)
        batch = {
            "observations": states[alive.flatten()],
            "actions": actions[alive.flatten()],
            "advantages": (gains / returns.std()).flatten()[alive.flatten()],
        }
        optimizer.zero_grad()
        task.loss(policy(batch["observations"]), task.labels(batch), batch).mean().backward()
        optimizer.step()
    assert lasted[-1] > 1.2 * lasted[0]
    rows = {key: values[:600] for key, values in batch.items()}
    rows["old_logits"] = policy(rows["observations"]).detach()
    # how far the policy goes from what it did without a block: not at all without the useless one
    verdict(policy, [rows], ReinforcementLearning(objective="kl"), modality="tabular")
