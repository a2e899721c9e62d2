import pytest
import torch

from lowrank_kernels import lowrank_conv2d, lowrank_linear, lowrank_linear_per_sample
from lowrank_kernels.testing import assert_close, check_conv2d, check_linear, check_per_sample


def size(down, rank):
    return down.shape[-4 if down.dim() > 2 else 0] if rank is None else int(rank)


def one_rank_less(product, *args):
    *tensors, rank = args
    return product(*tensors, max(size(tensors[1], rank) - 1, 0))


def no_bias(product, x, down, up, bias, rank):
    return product(x, down, up, None, rank)


def last_directions(product, x, down, up, bias, rank):
    r = size(down, rank)
    return product(x, down.flip(-4 if down.dim() > 2 else 0), up.flip(-1), bias, r)


def scaled(product, *args):
    return product(*args) * (1 + 1e-9)


def masked(product, x, down, up, bias, rank):
    r = size(down, rank)
    keep = torch.arange(up.shape[-1]) < r
    return product(x, down, up * keep, bias, None)


def detached(product, x, down, up, bias, rank):
    return product(x, down, up.detach() + 0 * up.sum(), bias, rank)


def tail_gradient(product, x, down, up, bias, rank):
    # the derivative of a tail that adds nothing
    return product(x, down, up, bias, rank) + (up - up.detach()).sum()


FAULTS = [one_rank_less, no_bias, last_directions, scaled, masked, detached, tail_gradient]


def faulty(fault, product):
    def wrong(x, down, up, bias=None, rank=None, **options):
        def call(*tensors):
            return product(*tensors, **options)

        return fault(call, x, down, up, bias, rank)

    return wrong


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_the_laws_of_the_linear_product_catch(fault):
    with pytest.raises(AssertionError):
        check_linear(faulty(fault, lowrank_linear))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_the_laws_of_the_convolution_catch(fault):
    with pytest.raises(AssertionError):
        check_conv2d(faulty(fault, lowrank_conv2d))


def largest_rank_for_all(x, down, up, bias, ranks):
    return None if not ranks.numel() else ranks.max().expand_as(ranks)


def one_direction_less(x, down, up, bias, ranks):
    return (ranks - 1).clamp(min=0)


def other_rows(x, down, up, bias, ranks):
    return ranks.flip(0)


@pytest.mark.parametrize(
    "fault", [largest_rank_for_all, one_direction_less, other_rows], ids=lambda f: f.__name__
)
def test_the_laws_of_ranks_per_sample_catch(fault):
    def wrong(x, down, up, bias=None, ranks=None, **options):
        other = None if ranks is None else fault(x, down, up, bias, ranks)
        return lowrank_linear_per_sample(x, down, up, bias, other, **options)

    with pytest.raises(AssertionError):
        check_per_sample(wrong)


def test_rows_that_see_each_other_are_caught():
    def masked(x, down, up, bias=None, ranks=None, *, inner_bias=None):
        ranks = torch.tensor(down.shape[0]) if ranks is None else ranks
        ranks = ranks[(..., *[None] * (x.dim() - ranks.dim()))]
        top = int(ranks.max()) if ranks.numel() else 0
        h = x @ down[:top].T + (0 if inner_bias is None else inner_bias[:top])
        y = torch.where(torch.arange(top) < ranks, h, 0) @ up[:, :top].T
        return y if bias is None else y + bias

    with pytest.raises(AssertionError, match="the rows that reach none of it"):
        check_per_sample(masked)


def test_half_precision_sums_are_caught():
    def careless(x, down, up, bias=None, rank=None):
        r = size(down, rank)
        h = (x[..., None, :] * down[:r]).half().cumsum(-1)[..., -1].to(x)
        y = h @ up[:, :r].T
        return y if bias is None else y + bias

    with pytest.raises(AssertionError, match="relative error"):
        check_linear(careless, torch.empty(0, dtype=torch.float32), gradients=False)


def test_the_message_names_the_tensor_and_the_place():
    want = torch.ones(3)
    got = torch.tensor([1.0, 1.5, 1.0])
    with pytest.raises(
        AssertionError,
        match=r"y: relative error 0\.289 above 0\.1; worst at flat index 1: 1\.5, not 1\.0",
    ):
        assert_close("y", got, want, rtol=0.1)


@pytest.mark.parametrize("got", [torch.full((3,), torch.nan), torch.full((3,), torch.inf)])
def test_what_is_not_a_number_is_far_from_everything(got):
    for want in (torch.zeros(3), torch.ones(3)):
        with pytest.raises(AssertionError):
            assert_close("y", got, want, rtol=1e9)


def test_shapes_are_compared_before_numbers():
    with pytest.raises(AssertionError, match=r"y: shape \[3\], not \[1, 3\]"):
        assert_close("y", torch.ones(3), torch.ones(1, 3))


def test_zeros_must_be_exact():
    with pytest.raises(AssertionError):
        assert_close("y", torch.full((3,), 1e-9), torch.zeros(3), rtol=1e-12)
