"""Every method that needs no gradient, on nets as they come."""

import io
import json

import pytest
import torch
from torch import Tensor, nn

from layer_importance import Report, analyze
from layer_importance._methods.bridgeability import Bridgeability
from layer_importance._methods.information_bottleneck import InformationBottleneck
from layer_importance._methods.layer_correlation import LayerCorrelation
from layer_importance._methods.neuron_activation import NeuronActivation
from layer_importance._methods.outliers import Outliers
from layer_importance._methods.spectral_analysis import SpectralAnalysis
from layer_importance._methods.topology_analysis import TopologyAnalysis

KINDS = [
    Bridgeability,
    InformationBottleneck,
    LayerCorrelation,
    NeuronActivation,
    Outliers,
    SpectralAnalysis,
    TopologyAnalysis,
]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.relu = nn.BatchNorm2d(8), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.relu(self.norm(self.a(x))))


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 3)
        self.blocks = nn.Sequential(*[Residual() for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Sequences(nn.Module):
    """Tokens come before samples."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(12, 2, 24, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x.transpose(0, 1)).mean(0))


def sentences(kind: str) -> tuple[nn.Module, list[dict[str, Tensor]]]:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "num_labels": 3}
    sizes |= {"num_hidden_layers": 3, "intermediate_size": 32, "pad_token_id": 0}
    if kind == "albert":
        sizes["embedding_size"] = 8
    config = transformers.AutoConfig.for_model(kind, **sizes)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    tokens = torch.randint(1, 50, (48, 7))
    mask = (torch.arange(7) < torch.randint(2, 8, (48, 1))).long()
    batch = {"input_ids": tokens * mask, "attention_mask": mask, "labels": torch.arange(48) % 3}
    return model, [{k: v[i : i + 16] for k, v in batch.items()} for i in (0, 16, 32)]


def subject(kind: str) -> tuple[nn.Module, list]:  # type: ignore[type-arg]
    torch.manual_seed(0)
    labels = torch.arange(48) % 3
    if kind == "images":
        x = torch.randn(48, 3, 6, 6)
        return Images(), list(zip(x.split(16), labels.split(16), strict=True))
    if kind == "sequences":
        x = torch.randn(48, 5, 12)
        return Sequences(), list(zip(x.split(16), labels.split(16), strict=True))
    return sentences(kind)


def content(model: nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.save({name: t.clone() for name, t in model.state_dict().items()}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["images", "sequences", "bert", "gpt2", "llama", "albert"])
def test_all_of_them_score_every_unit_and_leave_the_model_alone(kind: str) -> None:
    model, batches = subject(kind)
    before, hooks = content(model), [len(m._forward_hooks) for m in model.modules()]
    report = analyze(model, batches, methods=[make() for make in KINDS])
    assert content(model) == before
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    assert len(report.units) == {"images": 4}.get(kind, 3)
    for name, scores in report.methods.items():
        assert set(scores) == set(report.units.names), (name, scores.missing)
        assert all(abs(scores[unit].value) < 1e6 for unit in scores)
        assert {scores[unit].samples for unit in scores} <= {48} | set(range(10, 40))
    again = Report.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False)))
    assert again["layer_correlation"].tables.keys() == {"cka", "angular_distance"}
    assert report.passes == (1, 0)


@pytest.mark.parametrize("kind", ["images", "bert"])
def test_methods_with_gradients_beside_them_change_nothing(kind: str) -> None:
    model, batches = subject(kind)
    alone = analyze(model, batches, methods=[make() for make in KINDS])
    names = ("fisher_information", "skip_attribution", "gradient_flow")
    beside = analyze(model, batches, methods=[*names, *[make() for make in KINDS]])
    for name, scores in alone.methods.items():
        for unit in scores:
            assert beside[name][unit].value == pytest.approx(scores[unit].value, rel=1e-4, abs=1e-6)
            assert beside[name][unit].samples == scores[unit].samples
        for column, values in scores.extras.items():
            assert beside[name].extras[column] == pytest.approx(values, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("make", KINDS)
def test_a_block_that_adds_nothing_is_last_where_more_means_more_important(make) -> None:  # type: ignore[no-untyped-def]
    model, batches = subject("images")
    with torch.no_grad():
        model.blocks[2].b.weight.zero_()
        model.blocks[2].b.bias.zero_()
    method = make()
    report = analyze(model, batches, methods=[method])
    if method.direction == "importance":
        assert report.ranking(method.name)[0] == "blocks.2"
        assert report[method.name]["blocks.2"].value == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("make", KINDS)
def test_checkpointed_blocks_are_read_once(make) -> None:  # type: ignore[no-untyped-def]
    from torch.utils.checkpoint import checkpoint

    class Again(nn.Module):
        def __init__(self, net: Images) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            x = self.net.stem(x)
            for block in self.net.blocks:
                x = checkpoint(block, x, use_reentrant=False)
            return self.net.head(x.mean((2, 3)))

    model, batches = subject("images")
    plain, twice = (
        analyze(net, batches, methods=[make(), "skip_attribution"]) for net in (model, Again(model))
    )
    name = make.name
    for unit in plain[name]:
        assert twice[name]["net." + unit].samples == plain[name][unit].samples
        assert twice[name]["net." + unit].value == pytest.approx(plain[name][unit].value, rel=1e-4)
