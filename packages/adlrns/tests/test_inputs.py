import pytest
import torch
from torch import nn

from adlrns._compare import deviation, split
from adlrns._errors import RunError
from adlrns._exporters import _compare
from adlrns._inputs import Example, call, count, cut, describe, example_of, make_up, outputs

X = torch.arange(12.0).reshape(6, 2)


@pytest.mark.parametrize("batch", [X, (X, "label"), [X, None]])
def test_a_model_is_called_with_the_tensor_of_a_batch(batch) -> None:
    assert torch.equal(call(nn.Identity(), batch), X)
    assert count(batch) == 6


def test_a_mapping_is_keyword_arguments() -> None:
    class Sum(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

    assert torch.equal(call(Sum(), {"a": X, "b": X}), 2 * X)
    assert example_of({"a": X, "b": X}).args == ()


def test_made_up_inputs_are_of_the_kind_that_was_seen() -> None:
    batch = {"ids": torch.randint(0, 30, (4, 7)), "attention_mask": torch.ones(4, 7).long()}
    batch["x"] = torch.randn(4, 3)
    args, made = make_up(describe(batch), 5)
    assert args == ()
    for name, tensor in batch.items():
        assert made[name].dtype == tensor.dtype
        assert made[name].shape == (5, *tensor.shape[1:])
    assert made["ids"].max() <= batch["ids"].max()
    assert made["attention_mask"].all()
    assert make_up(describe(X), 5).batch.shape == (5, 2)


def test_outputs_are_found_wherever_they_are() -> None:
    found = outputs({"a": X, "b": (X, [X.long()]), "c": None, "d": 3})
    assert len(found) == 2


@pytest.mark.parametrize("batch", [X, (X, X), {"a": X}])
def test_batches_are_cut_by_samples(batch) -> None:
    assert count(cut(batch, 1, 4)) == 3


@pytest.mark.parametrize("number, apart", [(2, [1]), (5, [4]), (11, [4, 9])])
def test_one_batch_in_five_is_kept_apart(number: int, apart: list[int]) -> None:
    kept, held = split([torch.full((2, 1), float(i)) for i in range(number)])
    assert [int(batch[0, 0]) for batch in held] == apart
    assert len(kept) + len(held) == number


def test_a_lone_batch_is_cut_in_two() -> None:
    kept, held = split([X])
    assert torch.equal(torch.cat([kept[0], held[0]]), X)
    assert [len(part) for part in split([X[:1]])] == [1, 0]


def test_deviation_is_relative_and_answers_are_compared() -> None:
    one, other = nn.Identity(), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        other.weight.copy_(1.1 * torch.eye(2))
    found = deviation(one, other, [X, X])
    assert found is not None
    assert found.relative == pytest.approx(0.1, rel=1e-5)
    assert found.agreement == 1.0
    with torch.no_grad():
        other.weight.copy_(torch.eye(2).flip(0))
    assert deviation(one, other, [X]).agreement == 0.0
    assert deviation(one, other, []) is None


def test_padding_does_not_count() -> None:
    class Tokens(nn.Module):
        def __init__(self, wrong: float):
            super().__init__()
            self.wrong = wrong

        def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return x[..., None].repeat(1, 1, 4) + self.wrong * (1 - attention_mask[..., None])

    mask = torch.tensor([[1.0, 1.0, 0.0]])
    batch = {"x": torch.ones(1, 3), "attention_mask": mask}
    assert deviation(Tokens(0.0), Tokens(9.0), [batch]).relative == 0.0


@pytest.mark.parametrize("wrong", [lambda x: [x + 1], lambda x: [x[:2]], lambda x: []])
def test_an_export_that_computes_something_else_is_refused(wrong) -> None:
    with pytest.raises(RunError, match="the exported program"):
        _compare(nn.Identity(), Example((X,), {}), lambda e: wrong(e.args[0]))


def test_an_export_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(RunError, match="off by nan"):
        _compare(nn.Identity(), Example((X,), {}), lambda e: [e.args[0] * float("nan")])
