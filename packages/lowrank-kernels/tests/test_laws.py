import pytest
import torch

from lowrank_kernels import (
    identity_block,
    lowrank_conv2d_identity,
    lowrank_conv2d_identity_reference,
    lowrank_embedding,
    lowrank_embedding_reference,
    lowrank_linear_identity,
    lowrank_linear_identity_reference,
)
from lowrank_kernels.testing import (
    check_conv2d_identity,
    check_embedding,
    check_identity_block,
    check_linear_identity,
)

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def test_the_references_obey_their_own_laws():
    check_embedding(lowrank_embedding_reference)
    check_linear_identity(lowrank_linear_identity_reference)
    check_conv2d_identity(lowrank_conv2d_identity_reference)


def rank_ignored(i, table, up, r, p):
    return lowrank_embedding(i, table, up, padding_idx=p)


def last_directions(i, table, up, r, p):
    return lowrank_embedding(i, table.flip(1), up.flip(1), r, padding_idx=p)


def masked(i, table, up, r, p):
    keep = torch.arange(up.shape[1]) < (up.shape[1] if r is None else r)
    return lowrank_embedding(i, table, up * keep, padding_idx=p)


def padding_ignored(i, table, up, r, p):
    return lowrank_embedding(i, table, up, r)


def padding_of_the_table_alone(i, table, up, r, p):
    r = table.shape[1] if r is None else int(r)
    h = torch.nn.functional.embedding(i, table[:, :r], p)
    return h @ up[:, :r].T


def padding_zeroed(i, table, up, r, p):
    y = lowrank_embedding(i, table, up, r)
    return y if p is None else y * (i != p % table.shape[0])[..., None]


def long_indices_alone(i, table, up, r, p):
    assert i.dtype == torch.int64
    return lowrank_embedding(i, table, up, r, padding_idx=p)


def detached(i, table, up, r, p):
    return lowrank_embedding(i, table, up.detach(), r, padding_idx=p) + 0 * up.sum()


EMBEDDING_FAULTS = [
    rank_ignored, last_directions, masked, padding_ignored, padding_of_the_table_alone,
    padding_zeroed, long_indices_alone, detached,
]  # fmt: skip


@pytest.mark.parametrize("fault", EMBEDDING_FAULTS, ids=lambda f: f.__name__)
def test_the_laws_of_the_embedding_catch(fault):
    with pytest.raises(AssertionError):
        check_embedding(
            lambda i, table, up, rank=None, *, padding_idx=None: fault(
                i, table, up, rank, padding_idx
            )
        )


def order_ignored(head, tail, order, b, c):
    return head, tail, None, b, c


def order_inverted(head, tail, order, b, c):
    return head, tail, None if order is None else order.argsort(), b, c


def no_head_bias(head, tail, order, b, c):
    return head, tail, order, None, c


def no_tail_bias(head, tail, order, b, c):
    return head, tail, order, b, None


def tail_rounded(head, tail, order, b, c):
    return head, tail * (1 + 1e-9), order, b, c


def tail_without_gradient(head, tail, order, b, c):
    return head, tail.detach() + 0 * tail, order, b, c


IDENTITY_FAULTS = [
    order_ignored, order_inverted, no_head_bias, no_tail_bias, tail_rounded, tail_without_gradient,
]  # fmt: skip


@pytest.mark.parametrize("fault", IDENTITY_FAULTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "check, product",
    [(check_linear_identity, lowrank_linear_identity),
     (check_conv2d_identity, lowrank_conv2d_identity)],
)  # fmt: skip
def test_the_laws_of_the_identity_form_catch(check, product, fault):
    def wrong(x, head, tail, order=None, b=None, c=None, **options):
        return product(x, *fault(head, tail, order, b, c), **options)

    with pytest.raises(AssertionError):
        check(wrong)


def first_rows(down, up, bias=None, rank=None, *, inner_bias=None, bound=2.0):
    """Return the block of the first r rows, whatever becomes of the tail."""
    r = down.shape[0] if rank is None else int(rank)
    U = up[:, :r].double()
    tail = torch.linalg.solve(U[:r], U[r:], left=False)
    b = torch.zeros(up.shape[0]).double() if bias is None else bias.double()
    first = b[:r] + (0 if inner_bias is None else U[:r] @ inner_bias[:r].double())
    some = bias is not None
    return (
        (U[:r] @ down[:r].double()).to(down), tail.to(down), torch.arange(up.shape[0]),
        first.to(down) if some or inner_bias is not None else None,
        (b[r:] - tail @ b[:r]).to(down) if some else None,
    )  # fmt: skip


def test_the_laws_of_the_block_catch_a_tail_that_grows():
    with pytest.raises(AssertionError):
        check_identity_block(first_rows)
    check_identity_block(identity_block)


def test_the_laws_of_the_block_catch_one_of_too_many_weights():
    def whole(down, up, bias=None, rank=None, **options):
        return identity_block(down, up, bias, None, **options)

    with pytest.raises(AssertionError):
        check_identity_block(whole)
