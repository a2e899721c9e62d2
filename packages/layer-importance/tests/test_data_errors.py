from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layer_importance import Classification, analyze, plan
from layer_importance.interventions import removal_curve


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.head = nn.Linear(8, 3)

    def forward(self, features: Tensor) -> Tensor:
        for block in self.blocks:
            features = block(features)
        out: Tensor = self.head(features)
        return out


def batches(mapping: bool, place: int, key: str, wrong: Any) -> list[Any]:
    """Five batches; ``wrong`` makes one entry of one of them what it must not be."""
    generator = torch.Generator().manual_seed(0)
    found: list[Any] = []
    for number in range(5):
        one = {
            "features": torch.randn(6, 8, generator=generator),
            "labels": torch.randint(3, (6,), generator=generator),
        }
        if number == place:
            one[key] = wrong(one[key])
        found.append(one if mapping else (one["features"], one["labels"]))
    return found


def with_nan(x: Tensor) -> Tensor:
    return torch.where(torch.arange(48).reshape(6, 8) == 5, torch.nan, x)


# what is wrong, with which entry, and what the message must say beside the batch and the entry
WRONG = [
    ("features", with_nan, "must be finite, got 1 NaN or infinite values"),
    ("features", lambda x: x[:, :5], r"float32 \[6, 5\], in the first batch float32 \[6, 8\]"),
    ("features", lambda x: x.double(), "float64"),
    ("features", lambda x: x.numpy(), "ndarray"),
    ("labels", lambda y: y.float(), r"float32 \[6\], in the first batch int64 \[6\]"),
    ("labels", lambda y: y[:4], r"must have shape \[6\] for logits \[6, 3\], got \[4\]"),
    ("labels", lambda y: y + 7, "must be in 0..2"),
    ("labels", lambda y: y.tolist(), "list"),
]


@pytest.mark.parametrize("mapping", [True, False])
@pytest.mark.parametrize("key, wrong, says", WRONG)
@pytest.mark.parametrize("methods", [["block_influence", "layer_ablation"], "auto"])
def test_an_error_about_data_names_the_batch_and_the_entry(
    mapping: bool, key: str, wrong: Any, says: str, methods: Any
) -> None:
    data, net = batches(mapping, 3, key, wrong), Net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises((ValueError, TypeError, RuntimeError), match=says) as caught:
        analyze(net, data, methods=methods)
    message = str(caught.value)
    assert message.startswith("batch 3")
    name = key if mapping else str(["features", "labels"].index(key))
    assert name in message or "labels must" in message
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(not module._forward_hooks for module in net.modules())


@pytest.mark.parametrize("wrong", [with_nan, lambda x: x[:, :5], lambda x: x.numpy()])
def test_so_does_one_about_the_first_batch(wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError, RuntimeError), match="batch 0.*features"):
        analyze(Net(), batches(True, 0, "features", wrong))


@pytest.mark.parametrize("run", [plan, removal_curve])
def test_plans_and_curves_name_them_too(run: Any) -> None:
    options = {"units": 2} if run is plan else {"order": ["blocks.0"]}
    with pytest.raises(RuntimeError, match=r"batch 3: .*features is float32 \[6, 5\]"):
        run(Net(), batches(True, 3, "features", lambda x: x[:, :5]), **options)


def test_a_batch_without_a_key_that_others_have_says_so() -> None:
    data = batches(True, 9, "labels", None)
    del data[2]["labels"]
    with pytest.raises((ValueError, TypeError), match=r"batch 2.*labels is not there"):
        analyze(Net(), data, methods=["skip_attribution"])


def test_entries_within_entries_have_a_path() -> None:
    targets = [{"boxes": torch.ones(1, 4)}, {"boxes": torch.full((1, 4), torch.inf)}]
    with pytest.raises(ValueError, match=r"batch 0 must be finite, got 4 .* in targets\.1\.boxes"):
        analyze(Net(), [{"features": torch.ones(2, 8), "targets": targets}])


def test_errors_with_a_meaning_of_their_own_stay_what_they_are() -> None:
    class Full(Classification):
        def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
            raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError, match="^no memory$"):
        analyze(Net(), batches(True, 9, "labels", None), methods=["layer_ablation"], task=Full())
