import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from layer_importance._batch import input_keys, take, with_entries
from layer_importance._contribution import modality_contribution
from layer_importance._discover import discover
from layer_importance._modalities import BUILT_IN, find_modality
from layer_importance._modalities.audio import Audio
from layer_importance._modalities.graph import Graph, padded_graphs
from layer_importance._modalities.multimodal import Multimodal
from layer_importance._modalities.tabular import Tabular
from layer_importance._modalities.text import Text
from layer_importance._modalities.vision import Vision
from layer_importance._subject import Subject
from layer_importance._task import Task
from layer_importance._tasks.classification import Classification
from layer_importance._units import Unit, Units


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def ints(*shape):
    return torch.randint(1, 9, shape, generator=generator())


def floats(*shape):
    return torch.randn(*shape, generator=generator())


# one row a modality: a batch that looks like it
BATCHES = {
    "text": {"input_ids": ints(4, 6), "attention_mask": torch.ones(4, 6), "labels": ints(4)},
    "vision": (floats(4, 3, 8, 8), ints(4)),
    "audio": {"input_values": floats(4, 900), "lengths": torch.tensor([900, 450, 300, 9])},
    "multimodal": (floats(4, 1, 8, 8), floats(4, 900), ints(4)),
    "graph": {"x": floats(5, 3), "edge_index": torch.randint(5, (2, 7)), "y": ints(5)},
    "tabular": (floats(4, 3), ints(4)),
}


def test_all_six_are_there():
    assert {kind.name for kind in BUILT_IN} == set(BATCHES)


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_says_what_it_is(name):
    found = find_modality("auto", BATCHES[name])
    assert found.name == name
    assert "[" in found.reason
    asked = find_modality(name, BATCHES[name])
    assert type(asked) is type(found)
    assert asked.reason == "asked for"
    assert find_modality(asked, None) is asked


@pytest.mark.parametrize(
    "batch, name",
    [
        (ints(4, 6), "text"),
        ((floats(4, 6, 8), ints(4)), "text"),
        (floats(4, 3, 5, 8, 8), "vision"),
        ((floats(4, 900), ints(4)), "audio"),
        ({"input_features": floats(4, 80, 300)}, "audio"),
        ({"pixel_values": floats(4, 3, 8, 8), "input_ids": ints(4, 6)}, "multimodal"),
        ({"x": floats(2, 5, 3), "adj": floats(2, 5, 5)}, "graph"),
        ({"features": floats(4, 3)}, "tabular"),
    ],
)
def test_other_forms_are_recognised(batch, name):
    assert find_modality("auto", batch).name == name


def test_what_looks_like_nothing_is_asked_about():
    with pytest.raises(ValueError, match=r"modality must be given, one of .*Tensor\[3\]"):
        find_modality("auto", torch.zeros(3))
    with pytest.raises(ValueError, match="auto or one of .*got 'smell'"):
        find_modality("smell", torch.zeros(3))


def tensors_of(batch):
    values = batch.values() if isinstance(batch, dict) else batch
    return [value for value in values if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("name", BATCHES)
def test_corruption_changes_inputs_alone_and_keeps_their_form(name):
    batch = BATCHES[name]
    before = [tensor.clone() for tensor in tensors_of(batch)]
    spoilt = find_modality(name, batch).corrupt(batch, generator())
    again = find_modality(name, batch).corrupt(batch, generator())
    assert type(spoilt) is type(batch)
    inputs = input_keys(batch)
    changed = set()
    for key in batch if isinstance(batch, dict) else range(len(batch)):
        assert spoilt[key].shape == batch[key].shape
        assert spoilt[key].dtype == batch[key].dtype
        assert torch.equal(spoilt[key], again[key])
        if not torch.equal(spoilt[key], batch[key]):
            changed.add(key)
    assert changed
    assert changed <= set(inputs)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors_of(batch), strict=True))


@pytest.mark.parametrize("name", [name for name in BATCHES if name != "graph"])
def test_batches_can_be_cut_unless_they_are_one_graph(name):
    assert find_modality(name, BATCHES[name]).divisible(BATCHES[name])
    assert not Graph().divisible(BATCHES["graph"])
    assert Graph().divisible({"x": floats(2, 5, 3), "adj": floats(2, 5, 5)})


# text


def test_tokens_are_swapped_for_real_ones_where_they_are_real():
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    ids = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]])
    spoilt = Text(rate=1.0).corrupt({"input_ids": ids, "attention_mask": mask}, generator())
    assert (spoilt["input_ids"][mask == 0] == 0).all()
    assert (spoilt["input_ids"][mask == 1] > 0).all()
    assert torch.equal(spoilt["attention_mask"], mask)


def test_embeddings_get_noise_of_three_standard_deviations_where_tokens_are_real():
    embedding = nn.Embedding(9, 64)
    ids, mask = ints(40, 8), torch.ones(40, 8)
    mask[:, 6:] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ints(40)}
    spoilt = Text(embedding=embedding).corrupt(batch, generator())
    assert set(spoilt) == {"inputs_embeds", "attention_mask", "labels"}
    noise = (spoilt["inputs_embeds"] - embedding(ids)).detach()
    assert (noise[:, 6:] == 0).all()
    ratio = noise[:, :6].std() / embedding.weight.std()
    assert ratio.item() == pytest.approx(3, rel=0.03)


def test_padding_is_known_by_mask_or_lengths_or_token():
    ids = torch.tensor([[1, 2, 0], [3, 0, 0]])
    expected = ids != 0
    batches = [
        {"input_ids": ids, "attention_mask": expected.long()},
        {"input_ids": ids, "lengths": torch.tensor([2, 1])},
    ]
    for batch in batches:
        assert torch.equal(Text().mask(batch, 3), expected)
        assert Text().mask(batch, 4) is None
    assert torch.equal(Text(pad=0).mask({"input_ids": ids}, 3), expected)
    assert torch.equal(Text(pad=0).mask((ids, ints(2)), 3), expected)
    assert Text().mask({"input_ids": ids}, 3) is None


def test_encoder_and_decoder_have_masks_of_their_own():
    batch = {
        "input_ids": ints(2, 3),
        "attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]]),
        "labels": torch.tensor([[5, 6, 7], [5, 6, -100]]),
    }
    assert Text().mask(batch, 3, "encoder.block").tolist() == [[1, 1, 0], [1, 0, 0]]
    assert Text().mask(batch, 3, "decoder.block").tolist() == [[1, 1, 1], [1, 1, 0]]
    told = {**batch, "decoder_attention_mask": torch.tensor([[1, 0, 0], [1, 1, 1]])}
    assert Text().mask(told, 3, "decoder.block").tolist() == [[1, 0, 0], [1, 1, 1]]


def unit(name, tower):
    return Unit(
        name=name, path=name, chain=tower, index=0, tower=tower, type_name="Block", parameters=1
    )


def test_units_belong_to_encoder_or_decoder():
    units = Units((unit("a", "encoder.block"), unit("b", "decoder.block"), unit("c", "lm")))
    assert {k: [u.name for u in v] for k, v in Text().towers(units).items()} == {
        "encoder": ["a"],
        "decoder": ["b"],
        "": ["c"],
    }
    assert list(Text().towers(units[1:])) == ["decoder.block", "lm"]


# vision


def test_images_get_noise_in_standard_deviations():
    images = 5 + 2 * floats(16, 3, 16, 16)
    noise = Vision(strength=1.5).corrupt((images, ints(16)), generator())[0] - images
    assert noise.std().item() == pytest.approx(3.0, rel=0.05)


@given(st.integers(1, 9), st.integers(0, 100))
def test_squares_come_whole_from_another_image(patch, seed):
    images = torch.arange(3.0)[:, None, None, None].expand(3, 2, 8, 7)
    spoilt = Vision(patch=patch).corrupt((images, ints(3)), generator(seed))[0]
    foreign = (spoilt != images)[:, 0]
    assert torch.equal(spoilt[:, 0], spoilt[:, 1])
    squares = foreign[:, ::patch, ::patch]
    whole = squares.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, :8, :7]
    assert torch.equal(foreign, whole)
    full = Vision(patch=patch, rate=1.0).corrupt((images, ints(3)), generator(seed))[0]
    assert (full != images).all()


def test_wrong_patches_are_refused():
    with pytest.raises(ValueError, match="patch must be at least 1, got 0"):
        Vision(patch=0)
    with pytest.raises(ValueError, match=r"rate must be in 0..1, got 2"):
        Vision(rate=2)


# audio


def test_noise_is_as_loud_as_the_sound_and_only_where_there_is_sound():
    sound = floats(2, 5000) * torch.tensor([[1.0], [10.0]])
    sound[:, 4000:] = 0
    batch = {"input_values": sound, "lengths": torch.tensor([4000, 4000])}
    noise = Audio(strength=0.5).corrupt(batch, generator())["input_values"] - sound
    assert (noise[:, 4000:] == 0).all()
    ratio = noise[:, :4000].std(1) / sound[:, :4000].std(1)
    torch.testing.assert_close(ratio, torch.full((2,), 0.5), rtol=0.05, atol=0)


def test_a_frame_is_real_if_it_begins_before_the_sound_ends():
    batch = {"input_values": floats(3, 1000), "lengths": torch.tensor([1000, 501, 1])}
    mask = Audio().mask(batch, 10)
    assert mask.sum(1).tolist() == [10, 6, 1]
    assert (mask[:, :-1] >= mask[:, 1:]).all()
    strided = Audio(frames=lambda lengths: (lengths - 400) // 320 + 1)
    assert strided.mask(batch, 2).sum(1).tolist() == [2, 1, 0]
    assert Audio().mask({"input_values": floats(3, 1000)}, 10) is None


# tabular


def test_columns_keep_their_values_and_lose_their_rows():
    table = floats(50, 3)
    spoilt = Tabular().corrupt((table, ints(50)), generator())[0]
    assert torch.equal(spoilt.sort(0).values, table.sort(0).values)
    assert not any(torch.equal(a, b) for a, b in zip(spoilt.T, table.T, strict=True))
    rows = {tuple(row.tolist()) for row in table}
    assert sum(tuple(row.tolist()) in rows for row in spoilt) < 10


# graphs


def test_features_move_between_nodes_and_edges_between_ends():
    batch = BATCHES["graph"]
    moved = Graph().corrupt(batch, generator())
    assert torch.equal(moved["x"].sort(0).values, batch["x"].sort(0).values)
    assert torch.equal(moved["edge_index"], batch["edge_index"])
    rewired = Graph(spoil="edges").corrupt(batch, generator())
    assert torch.equal(rewired["x"], batch["x"])
    assert torch.equal(rewired["edge_index"][0], batch["edge_index"][0])
    for which in (0, 1):
        degrees = [torch.bincount(b["edge_index"][which], minlength=5) for b in (rewired, batch)]
        assert torch.equal(*degrees)


def test_an_adjacency_matrix_stays_symmetric_when_it_is_rewired():
    raw = (floats(6, 6) > 0.5).float()
    adjacency = ((raw + raw.T) > 0).float()
    for matrix in (adjacency, adjacency.to_sparse()):
        found = Graph(spoil="edges").corrupt({"x": floats(6, 2), "adj": matrix}, generator())["adj"]
        assert torch.equal(found, found.T)
        assert found.sum() == adjacency.sum()
        assert not torch.equal(found, adjacency)


def test_padding_of_graphs_stays_where_it_is():
    nodes, graph = floats(7, 2), torch.tensor([0, 1, 0, 1, 1, 0, 1])
    x, real = padded_graphs(nodes, graph)
    assert real.sum(1).tolist() == [3, 4]
    torch.testing.assert_close(x.sum(1), torch.stack([nodes[graph == g].sum(0) for g in (0, 1)]))
    adjacency = floats(2, 4, 4)
    batch = {"x": x, "adj": adjacency, "mask": real}
    assert torch.equal(Graph().mask(batch, 4), real)
    moved = Graph().corrupt(batch, generator())["x"]
    assert (moved[~real] == 0).all()
    torch.testing.assert_close(moved.sum(1), x.sum(1))


class Propagate(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(3, 3)
        self.out = nn.Linear(3, 3)

    def forward(self, x, edge_index):
        # an index of another graph's node goes round: nothing would stop the cut batch
        near = torch.zeros_like(x).index_add(0, edge_index[1] % len(x), x[edge_index[0] % len(x)])
        return x + self.out(torch.relu(self.lin(near)))


class GraphNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Propagate() for _ in range(2)])

    def forward(self, x, edge_index):
        for block in self.blocks:
            x = block(x, edge_index)
        return x


def test_a_graph_is_never_cut():
    seen = []
    net, batch = GraphNet(), {**BATCHES["graph"], "y": torch.randint(3, (5,))}
    units = discover(net, batch)
    net.blocks[0].register_forward_pre_hook(lambda m, args: seen.append(len(args[0])))
    subject = Subject(net, units, Classification(), [batch], modality=Graph())
    assert subject.layouts["blocks.0"].x_axis == 0
    assert len(subject.some(batch, 2)["x"]) == 5
    assert set(seen) == {5}


# several


def test_each_input_is_spoiled_as_its_own_modality_is():
    batch = {
        "pixel_values": floats(4, 3, 8, 8),
        "input_ids": ints(4, 6),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]] * 4),
        "labels": ints(4),
    }
    kinds = Multimodal({"pixel_values": Vision(), "input_ids": Text(rate=1.0)})
    spoilt = kinds.corrupt(batch, generator())
    assert torch.equal(spoilt["input_ids"][:, 4:], batch["input_ids"][:, 4:])
    assert not torch.equal(spoilt["pixel_values"], batch["pixel_values"])
    assert torch.equal(spoilt["attention_mask"], batch["attention_mask"])
    only = Multimodal(spoiled=["input_ids"]).corrupt(batch, generator())
    assert torch.equal(only["pixel_values"], batch["pixel_values"])
    assert not torch.equal(only["input_ids"], batch["input_ids"])
    with pytest.raises(ValueError, match="spoiled must name inputs among .*'sound'"):
        Multimodal(spoiled=["sound"]).corrupt(batch, generator())


def test_a_tower_has_the_mask_of_the_input_it_reads():
    batch = {
        "pixel_values": floats(2, 3, 8, 8),
        "input_ids": ints(2, 4),
        "attention_mask": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]),
    }
    units = Units((unit("a", "vision.blocks"), unit("b", "text.blocks"), unit("c", "head")))
    towers = Multimodal(towers={"vision": "pixel_values", "text": "input_ids"})
    assert towers.mask(batch, 4, "vision.blocks") is None
    assert torch.equal(towers.mask(batch, 4, "text.blocks"), batch["attention_mask"].bool())
    assert list(towers.towers(units)) == ["pixel_values", "input_ids", "head"]
    assert torch.equal(Multimodal().mask(batch, 4), batch["attention_mask"].bool())
    assert Multimodal().mask(batch, 16) is None


# what each input contributes


class Value(Task):
    """The loss is what the model says."""

    name = "value"

    def loss(self, output, labels, batch):
        return output


class Joint(nn.Module):
    def __init__(self, product):
        super().__init__()
        self.product = product
        self.a, self.b = nn.Linear(3, 1, dtype=torch.float64), nn.Linear(2, 1, dtype=torch.float64)

    def forward(self, a, b):
        a, b = self.a(a)[:, 0], self.b(b)[:, 0]
        return a * b if self.product else a + b


def pairs():
    a, b = (torch.randn(12, n, generator=generator(n), dtype=torch.float64) for n in (3, 2))
    return a, b, torch.zeros(12)


@pytest.mark.parametrize("ablation", ["mean", "resample"])
@pytest.mark.parametrize("inputs", [(0, 1), ("a", "b")])
def test_inputs_that_add_up_do_not_interact(ablation, inputs):
    batch = pairs()
    batches = (
        [batch]
        if ablation == "resample"
        else [take(batch, [*range(5)]), take(batch, [*range(5, 12)])]
    )
    found = modality_contribution(
        Joint(product=False), batches, Value(), inputs=inputs, ablation=ablation
    )
    score = found.interaction[inputs]
    assert abs(score.value) < 1e-14
    assert score.standard_error < 1e-14
    # E l(mean of a, b) = E l where the loss is linear
    assert all(abs(one.value) < 1e-14 for one in found.contribution.values())
    assert all(one.standard_error > 0.01 for one in found.contribution.values())


def test_factors_interact_by_their_covariance():
    batch, net = pairs(), Joint(product=True)
    with torch.no_grad():
        a, b = net.a(batch[0])[:, 0], net.b(batch[1])[:, 0]
    covariance = ((a - a.mean()) * (b - b.mean())).mean()
    found = modality_contribution(net, [batch], Value(), inputs=[0, 1])
    # D(A) = mean(a) mean(b) - mean(ab) = D(B) = D(A, B), so that the interaction is cov(a, b)
    assert found.contribution[0].value == pytest.approx(-covariance.item(), rel=1e-12)
    assert found.interaction[0, 1].value == pytest.approx(covariance.item(), rel=1e-12)


def test_an_input_that_is_not_read_contributes_nothing_exactly():
    class Deaf(nn.Module):
        def forward(self, a, b):
            return a.sum(1)

    found = modality_contribution(Deaf(), [pairs()], Value(), inputs=[0, 1], ablation="resample")
    assert found.contribution[1].value == found.contribution[1].standard_error == 0
    assert found.interaction[0, 1].value == found.interaction[0, 1].standard_error == 0


def test_the_split_into_batches_changes_nothing():
    batch, net = pairs(), Joint(product=True)
    parts = [take(batch, rows) for rows in ([3, 1], [0, 2, 4, 5, 6], [11, 10, 9, 8, 7])]
    whole = modality_contribution(net, [batch], Value(), inputs=[0, 1])
    split = modality_contribution(net, iter(parts), Value(), inputs=[0, 1])
    for one, other in zip(whole.contribution.values(), split.contribution.values(), strict=True):
        assert other.value == pytest.approx(one.value, rel=1e-12)
        assert other.standard_error == pytest.approx(one.standard_error, rel=1e-12)
        assert other.samples == 12


@pytest.mark.parametrize(
    "inputs, ablation, words",
    [
        ([], "mean", "one or more"),
        ([0, 0], "mean", "each once"),
        ([0, 7], "mean", r"among \[0, 1\] or modules of the model, got 7"),
        (["nowhere"], "mean", "got 'nowhere'"),
        ([0], "median", "ablation must be mean or resample, got 'median'"),
    ],
)
def test_wrong_inputs_are_named(inputs, ablation, words):
    with pytest.raises(ValueError, match=words):
        modality_contribution(Joint(True), [pairs()], Value(), inputs=inputs, ablation=ablation)


def test_tokens_have_no_mean():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(9, 4)

        def forward(self, ids):
            return self.table(ids).mean(1)

    net, batch = Bag(), (ints(6, 3), torch.randint(4, (6,)))
    with pytest.raises(ValueError, match=r"input 0 has no mean, it is torch.int64: use resample"):
        modality_contribution(net, [batch], Classification(), inputs=[0])
    assert not net.table._forward_hooks
    found = modality_contribution(
        net, [batch], Classification(), inputs=[0, "table"], ablation="resample"
    )
    # the same donors: without the tokens is without their vectors
    assert found.contribution[0].value == pytest.approx(found.contribution["table"].value, abs=1e-6)


def test_entries_keep_their_type():
    found = with_entries({"a": 1, "b": 2}, lambda key, value: (key, value))
    assert found == {"a": ("a", 1), "b": ("b", 2)}
    assert with_entries((1, 2), lambda key, value: value + key) == (1, 3)
    assert with_entries(3, lambda key, value: (key, value)) == (None, 3)
