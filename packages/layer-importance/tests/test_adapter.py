import copy
import functools
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from layer_importance import plan
from layer_importance._adapter import UniversalLayerwiseAdapter, create_analyzer
from layer_importance._adapter_config import AnalysisConfig, Limited, ModalityType, TaskType
from layer_importance._analyzers import ImportanceAnalyzer, UniversalModel


class Block(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


class Net(nn.Module):
    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 16)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def _digits(samples: int = 256) -> TensorDataset:
    x, y = load_digits(return_X_y=True)
    return TensorDataset(
        torch.tensor(x[:samples] / 16, dtype=torch.float32), torch.tensor(y[:samples])
    )


@functools.cache
def _trained() -> Net:
    """Learned to read digits, but for block 3, which adds nothing."""
    torch.manual_seed(0)
    net = Net()
    nothing = [net.blocks[3].down.weight, net.blocks[3].down.bias]
    with torch.no_grad():
        for parameter in nothing:
            parameter.zero_()
    optimizer = torch.optim.Adam(
        [p for p in net.parameters() if id(p) not in map(id, nothing)], 3e-3
    )
    x, y = _digits().tensors
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    net.zero_grad()
    return net


def _net() -> Net:
    return copy.deepcopy(_trained())


@pytest.fixture
def data_loader() -> DataLoader[Any]:
    return DataLoader(_digits(), batch_size=64)


# the printed snippets, but for where things are imported from and a model instead of its file


def test_the_basic_snippet_runs(data_loader: DataLoader[Any]) -> None:
    adapter = create_analyzer(
        model_name="bert-base-uncased",
        task_type="classification",
        modality_type="text",
        analysis_methods=["fisher_information", "gradient_based", "layer_ablation"],
    )

    model = _net()
    adapter.load_model(model)

    results = adapter.analyze_importance(data_loader)

    compression_plan = adapter.generate_compression_plan(target_ratio=2.5)
    line = (
        f"压缩方案: {compression_plan['original_layers']}层 → "
        f"{compression_plan['compressed_layers']}层"
    )

    assert list(results) == ["fisher_information", "gradient_based", "layer_ablation"]
    assert all(list(scores) == [f"blocks.{i}" for i in range(6)] for scores in results.values())
    assert results["layer_ablation"]["blocks.3"] == 0.0
    assert line == "压缩方案: 6层 → 2层"
    assert len(compression_plan["kept_layers"]) == 2
    assert "blocks.3" in compression_plan["removed_layers"]
    assert compression_plan["achieved_ratio"] == 3.0


def test_the_advanced_snippet_runs(data_loader: DataLoader[Any]) -> None:
    config = AnalysisConfig(
        model_name="resnet50",
        task_type=TaskType.CLASSIFICATION,
        modality_type=ModalityType.VISION,
        batch_size=64,
        max_samples=5000,
        compression_targets=[1.5, 2.0, 2.5, 3.0],
        analysis_methods=["fisher_information", "gradient_based", "layer_ablation"],
    )

    adapter = UniversalLayerwiseAdapter(config)
    adapter.load_model(_net())
    adapter.analyze_importance(data_loader)
    plans = adapter.generate_compression_plans(evaluations=8)
    assert {ratio: plan["compressed_layers"] for ratio, plan in plans.items()} == {
        1.5: 4,
        2.0: 3,
        2.5: 2,
        3.0: 2,
    }


def test_the_snippet_for_a_method_of_ones_own_runs(data_loader: DataLoader[Any]) -> None:
    adapter = create_analyzer("mine", analysis_methods=["gradient_based"])
    adapter.load_model(_net())

    class CustomAnalyzer(ImportanceAnalyzer):
        def __init__(self) -> None:
            super().__init__("custom_method")

        def analyze(self, model: nn.Module, data_loader: Iterable[Any]) -> dict[str, float]:
            layer_scores: dict[str, float] = {}
            return layer_scores

    adapter.registry.add_method("custom_method", CustomAnalyzer)

    results = adapter.analyze_importance(data_loader)
    assert list(results) == ["gradient_based", "custom_method"]
    assert results["custom_method"] == {}
    assert adapter.report is not None
    assert adapter.report["custom_method"].missing["blocks.0"] == "the analyzer gave no score"


def test_the_snippet_for_a_model_of_ones_own_runs() -> None:
    class CustomModalityAdapter(UniversalModel):
        def _initialize_layers(self) -> None:
            pass

        def get_layer_output(self, x: Any, layer_idx: int) -> Any:
            pass

    assert CustomModalityAdapter(_net()).layers == []


# what they do


def test_an_analyzer_scores_units_by_name_or_number_and_leaves_the_model() -> None:
    class Norms(ImportanceAnalyzer):
        def __init__(self) -> None:
            super().__init__("norms")

        def analyze(self, model: nn.Module, data_loader: Iterable[Any]) -> dict[Any, float]:
            assert not model.training
            assert sum(len(y) for _, y in data_loader) == 100
            model.train()
            norms = {
                f"blocks.{i}": float(model.blocks[i].down.weight.detach().norm()) for i in (2, 3)
            }
            return {0: 7.0, "head": 1.0, "blocks.1": float("nan"), **norms}

    net = _net()
    adapter = create_analyzer("mine", analysis_methods=["norms"], max_samples=100)
    adapter.registry.add_method("norms", Norms)
    adapter.load_model(net)
    results = adapter.analyze_importance(_digits())
    weight = float(net.blocks[2].down.weight.detach().norm())
    assert results == {"norms": {"blocks.0": 7.0, "blocks.2": weight, "blocks.3": 0.0}}
    assert net.training
    assert adapter.report is not None
    missing = adapter.report["norms"].missing
    assert missing["head"] == "is no unit"
    assert missing["blocks.1"] == "the analyzer gave NaN"


def test_what_an_analyzer_returns_must_be_a_dictionary() -> None:
    class Listed(ImportanceAnalyzer):
        def __init__(self) -> None:
            super().__init__("listed")

        def analyze(self, model: nn.Module, data_loader: Iterable[Any]) -> Any:
            return [1.0]

    adapter = create_analyzer("mine", analysis_methods=["listed"])
    adapter.registry.add_method("listed", Listed)
    adapter.load_model(_net())
    with pytest.raises(TypeError, match="analyzer listed must return a dict, got list"):
        adapter.analyze_importance(_digits(8))


def test_every_key_of_the_configuration_has_an_effect() -> None:
    seen: list[int] = []
    net = _net()
    net.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    config = AnalysisConfig(
        model_name="digits",
        task_type="classification",
        modality_type="tabular",
        batch_size=20,
        max_samples=50,
        compression_targets=[1.2],
        analysis_methods=["block_influence"],
        seed=5,
    )
    adapter = UniversalLayerwiseAdapter(config)
    adapter.load_model(net)
    results = adapter.analyze_importance(DataLoader(_digits(), batch_size=256))
    report = adapter.report
    assert report is not None
    assert list(results) == ["block_influence"]
    assert (report.samples, report.batches, max(seen)) == (50, 3, 20)
    assert report.facts["model_name"] == "digits"
    assert report.facts["task"] == "classification"
    assert report.facts["modality"] == "tabular"
    assert report.facts["seed"] == 5
    assert adapter.generate_compression_plan()["compressed_layers"] == 5
    qa = create_analyzer("digits", "qa", "tabular", analysis_methods=["gradient_based"])
    qa.load_model(net)
    with pytest.raises((ValueError, TypeError, KeyError)):
        qa.analyze_importance(_digits(8))


def test_the_plan_is_carried_out_and_the_loaded_model_stays(data_loader: DataLoader[Any]) -> None:
    adapter = create_analyzer("mine", modality_type="tabular")
    net = _net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    adapter.load_model(net)
    adapter.analyze_importance(data_loader)
    found = adapter.generate_compression_plan(target_ratio=1.2, bridges=False)
    assert found["removed_layers"] == ["blocks.3"]
    assert found["damage"] == 0.0
    smaller = adapter.apply_compression_plan(found)
    assert smaller.kept == tuple(found["kept_layers"])
    assert smaller.parameters == found["compressed_parameters"]
    x = next(iter(data_loader))[0]
    net.eval()
    torch.testing.assert_close(smaller.model(x), net(x))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_other_targets_can_be_asked_for(data_loader: DataLoader[Any]) -> None:
    adapter = create_analyzer("mine", modality_type="tabular", analysis_methods=["block_influence"])
    adapter.load_model(net := _net())
    adapter.analyze_importance(data_loader)
    parameters = sum(p.numel() for p in net.parameters())
    found = adapter.generate_compression_plan(params=0.7 * parameters, evaluations=4)
    assert found["compressed_parameters"] <= 0.7 * parameters
    assert found["target_ratio"] is None
    with pytest.raises(ValueError, match="target_ratio must be at least 1, got 0.5"):
        adapter.generate_compression_plan(0.5)
    with pytest.raises(ValueError, match="target_ratio must be at most 6, the number of layers"):
        adapter.generate_compression_plan(100)


def test_steps_out_of_order_say_what_is_missing() -> None:
    adapter = create_analyzer("mine")
    with pytest.raises(ValueError, match="load_model must come before analyze_importance"):
        adapter.analyze_importance([])
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str"):
        adapter.load_model("bert-base-uncased")  # type: ignore[arg-type]
    adapter.load_model(_net())
    with pytest.raises(ValueError, match="analyze_importance must come before"):
        adapter.generate_compression_plan(target_ratio=2)
    with pytest.raises(ValueError, match="generate_compression_plan must come before"):
        adapter.apply_compression_plan()
    with pytest.raises(ValueError, match="at least one batch"):
        adapter.analyze_importance([])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"task_type": "poetry"}, "task_type must be one of classification, .*, got 'poetry'"),
        ({"modality_type": "smell"}, "modality_type must be one of text, .*, got 'smell'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"max_samples": 0}, "max_samples must be at least 1, got 0"),
        ({"analysis_methods": "gradient_based"}, "analysis_methods must be a list"),
        ({"analysis_methods": []}, "analysis_methods must be a list"),
        (
            {"analysis_methods": ["gradient_based", "fisher_informtion"]},
            "analysis_methods must be of .*'fisher_informtion': did you mean 'fisher_information'?",
        ),
        ({"compression_targets": [0.5]}, "compression_targets must be ratios of at least 1"),
    ],
)
def test_a_wrong_configuration_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_analyzer("mine", **options)
    with pytest.raises(TypeError, match="no_such_key"):
        create_analyzer("mine", no_such_key=1)


def test_only_methods_and_analyzers_can_be_added() -> None:
    with pytest.raises(TypeError, match="must be a subclass of Method"):
        create_analyzer("mine").registry.add_method("net", Net)  # type: ignore[arg-type]


def test_layers_are_those_of_the_model_or_those_it_names(data_loader: DataLoader[Any]) -> None:
    class Some(UniversalModel):
        def _initialize_layers(self) -> None:
            self.layers = ["blocks.1", "blocks.4"]

    net = _net()
    x = next(iter(data_loader))[0]
    stream = net.stem(x)
    for block in net.blocks[:2]:
        stream = block(stream)
    assert torch.equal(UniversalModel(net).get_layer_output(x, 1), stream)
    assert torch.equal(Some(net).get_layer_output((x,), 0), stream)
    assert torch.equal(Some(net).get_layer_output({"x": x}, -2), stream)
    assert net.training
    with pytest.raises(IndexError, match=r"layer_idx must be in 0\.\.1, got 2"):
        Some(net).get_layer_output(x, 2)
    adapter = create_analyzer("mine", analysis_methods=["block_influence"])
    adapter.load_model(Some(net))
    assert list(adapter.analyze_importance(data_loader)["block_influence"]) == [
        "blocks.1",
        "blocks.4",
    ]


def test_batches_are_cut_but_where_they_have_no_parts() -> None:
    batches = [torch.arange(5.0), torch.arange(5.0, 9.0), torch.arange(3.0)]
    cut = Limited(batches, batch_size=2, max_samples=8)
    assert [batch.tolist() for batch in cut] == [[0, 1], [2, 3], [4], [5, 6], [7]]
    assert [len(b) for b in Limited(iter(batches), batch_size=9, max_samples=6)] == [5, 1]
    whole = Limited(batches, batch_size=2, max_samples=8, divisible=lambda batch: False)
    assert [len(batch) for batch in whole] == [5]
    first = Limited(batches, batch_size=2, max_samples=2, divisible=lambda batch: False)
    assert [len(batch) for batch in first] == [5]
    once = Limited(iter(batches), batch_size=9, max_samples=6)
    assert [len(b) for b in once] == [len(b) for b in once]


def test_a_method_that_nobody_added_is_refused_before_the_analysis(
    data_loader: DataLoader[Any],
) -> None:
    adapter = create_analyzer("mine", modality_type="tabular", analysis_methods=["norms"])
    adapter.load_model(_net())
    with pytest.raises(ValueError, match=r"must be of .*, got 'norms'.*is added first"):
        adapter.analyze_importance(data_loader)
    with pytest.raises(ValueError, match="got 'taylor'$"):
        adapter.registry.get("taylor")
    with pytest.raises(ValueError, match=r"got 'fisher': did you mean 'fisher_information'\?"):
        adapter.registry.get("fisher")


@pytest.mark.parametrize("of", ["layers", "parameters"])
def test_a_ratio_says_what_it_is_of_and_means_the_same_in_both_faces(
    data_loader: DataLoader[Any], of: str
) -> None:
    net, batches = _net(), list(data_loader)
    adapter = create_analyzer("mine", modality_type="tabular", max_samples=10**6, batch_size=64)
    adapter.load_model(net)
    adapter.analyze_importance(batches)
    named = adapter.generate_compression_plan(1.5, ratio_of=of)
    direct = plan(net, batches, report=adapter.report, target_ratio=1.5, ratio_of=of)
    assert named["removed_layers"] == direct.removals
    assert named["ratio_of"] == direct.asked["ratio_of"] == of
    reached = {"layers": named["achieved_ratio"], "parameters": named["parameter_ratio"]}
    assert reached[of] >= 1.5
    assert adapter.generate_compression_plan(1.5)["ratio_of"] == "layers"
    unsaid = plan(net, batches, report=adapter.report, target_ratio=1.5, evaluations=0)
    assert unsaid.asked["ratio_of"] == "parameters"
    assert adapter.generate_compression_plan(units=4)["ratio_of"] is None
