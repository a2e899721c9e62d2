import torch
from hypothesis import given, strategies as st

from layer_importance._samples import Sample, sample_keys


def test_keys_follow_the_sample_not_its_place_or_its_batch() -> None:
    x, labels = torch.randn(10, 3, 4), torch.arange(10)
    keys = sample_keys((x, labels))
    assert torch.equal(sample_keys((x.flip(0), labels.flip(0))), keys.flip(0))
    assert torch.equal(sample_keys({"x": x[3:5], "labels": labels[3:5]}), keys[3:5])
    assert len(keys.unique()) == 10


def test_padding_has_no_part_in_a_key() -> None:
    tokens = torch.randint(0, 9, (4, 5))
    mask = (torch.arange(5) < torch.tensor([[3], [1], [2], [3]])).long()

    def keys_of(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return sample_keys({"x": tokens, "mask": mask}, real=lambda tensor: (mask, 1))

    keys = keys_of(tokens, mask)
    tokens[mask == 0] = 77
    assert torch.equal(keys_of(tokens, mask), keys)
    assert torch.equal(keys_of(tokens[:, :3], mask[:, :3]), keys)
    tokens[0, 0] += 1
    assert keys_of(tokens, mask)[0] != keys[0]


def test_another_seed_or_label_gives_another_key() -> None:
    x = torch.randn(4, 3)
    assert not torch.equal(sample_keys(x), sample_keys(x, seed=1))
    one, other = torch.zeros(4), torch.ones(4)
    assert bool((sample_keys((x, one)) != sample_keys((x, other))).all())


def test_keys_are_uniform_whole_numbers() -> None:
    keys = sample_keys(torch.arange(4000).double())
    assert torch.equal(keys, keys.floor())
    assert abs(float(keys.mean()) / 2**52 - 0.5) < 0.02
    assert abs(float((keys % 2).mean()) - 0.5) < 0.03


def test_keys_can_be_had_of_every_dtype() -> None:
    x = torch.randn(3, 2)
    for dtype in (torch.bfloat16, torch.bool, torch.int64, torch.float16, torch.complex64):
        assert len(sample_keys(x.to(dtype))) == 3


@given(st.permutations(range(12)), st.integers(0, 12), st.integers(1, 12))
def test_a_sample_is_the_same_for_every_order_split_and_merge(
    order: list[int], cut: int, size: int
) -> None:
    rows = torch.arange(12.0)[:, None]
    keys = (torch.arange(12.0) * 7) % 12
    whole, first, second = Sample(size), Sample(size), Sample(size)
    whole.add(keys, rows)
    first.add(keys[order[:cut]], rows[order[:cut]])
    second.add(keys[order[cut:]], rows[order[cut:]])
    first.merge(Sample.from_state(second.state()))
    assert torch.equal(first.rows, whole.rows)
    assert torch.equal(first.keys, torch.arange(float(size)))


def test_rows_that_are_not_finite_are_left_out() -> None:
    sample = Sample(4)
    sample.add(torch.arange(3.0), torch.tensor([[1.0], [torch.nan], [3.0]]))
    assert sample.rows.flatten().tolist() == [1.0, 3.0]
