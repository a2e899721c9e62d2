import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from lowrank_kernels import lowrank_embedding, lowrank_embedding_reference
from lowrank_kernels._embedding import embedding_at
from lowrank_kernels.testing import EMBEDDING_LAWS, assert_close

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
RANKS = (8, 0, 1, 7, 2, 3, 5, 4, 6, 8)


def operator(indices, table, up, rank=None, *, padding_idx=None):
    rank = torch.as_tensor(table.shape[1] if rank is None else rank)
    return embedding_at(indices, table, up, rank, padding_idx)


@pytest.mark.parametrize("law", EMBEDDING_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("implementation", [lowrank_embedding, operator], ids=lambda f: f.__name__)
def test_obeys(implementation, dtype, law):
    law(implementation, torch.empty(0, dtype=dtype))


@given(
    st.lists(st.integers(0, 4), max_size=3), st.integers(1, 30), st.integers(1, 30),
    st.integers(1, 30), st.data(),
)  # fmt: skip
def test_equals_the_reference_for_any_shape(shape, V, d, R, data):
    r = data.draw(st.integers(0, R))
    generator = torch.Generator().manual_seed(0)
    indices = torch.randint(V, shape, generator=generator)
    table, up = (torch.randn(s, generator=generator).double() for s in ((V, R), (d, R)))
    want = lowrank_embedding_reference(indices, table, up, r)
    assert_close("eager", lowrank_embedding(indices, table, up, r), want)
    assert_close("operator", operator(indices, table, up, r), want)


def factors(dtype=torch.float32):
    torch.manual_seed(0)
    indices = torch.tensor([[3, 0, 9], [3, 3, 1]])
    return indices, torch.randn(10, 8, dtype=dtype), torch.randn(6, 8, dtype=dtype)


@pytest.mark.parametrize("implementation", [lowrank_embedding, operator], ids=lambda f: f.__name__)
@pytest.mark.parametrize("padding_idx", [None, 3, -1])
def test_gradcheck_holds_at_every_rank(implementation, padding_idx):
    indices, *leaves = factors(torch.float64)
    leaves = [t.requires_grad_() for t in leaves]

    def rows(*tensors, r):
        # numerical differences do not know of a padding: leave its rows out
        y = implementation(indices, *tensors, r, padding_idx=padding_idx)
        return y if padding_idx is None else y[indices != padding_idx % 10]

    for r in (0, 1, 5, 8):
        call = lambda *t, r=r: rows(*t, r=r)  # noqa: E731
        assert torch.autograd.gradcheck(call, leaves)
        assert torch.autograd.gradgradcheck(call, leaves)


def test_a_padding_of_zeros_is_as_in_a_dense_table():
    indices, table, up = factors(torch.float64)
    table[3] = 0
    dense = nn.Embedding.from_pretrained(table @ up.T, freeze=False, padding_idx=3)
    leaves = [t.requires_grad_() for t in (table, up)]
    y = lowrank_embedding(indices, *leaves, padding_idx=3)
    assert_close("y", y, dense(indices))
    weights = torch.randn_like(y)
    got = torch.autograd.grad((y * weights).sum(), leaves)
    (to_dense,) = torch.autograd.grad((dense(indices) * weights).sum(), dense.weight)
    assert_close("table", got[0], to_dense @ up)
    assert_close("up", got[1], to_dense.T @ table)


@pytest.mark.parametrize("r", [0, 3, torch.tensor(3)], ids=str)
def test_autocast_casts_the_product(r):
    indices, table, up = factors()
    with torch.autocast("cpu", torch.bfloat16):
        got = lowrank_embedding(indices, table, up, r)
        compiled = operator(indices, table, up, r)
    assert got.dtype == compiled.dtype == torch.bfloat16
    want = lowrank_embedding_reference(indices, table, up, r)
    assert_close("y", got, want.bfloat16())
    assert_close("operator", compiled, want.bfloat16())


@pytest.mark.parametrize("in_dims", [(0, None, None), (None, 0, None), (1, None, 0), (0, 2, 1)])
def test_vmap_maps_each_argument(in_dims):
    torch.manual_seed(0)
    indices, *rest = factors()
    batched = [
        t if d is None else torch.stack([t, t.flip(-1)]).movedim(0, d)
        for t, d in zip((indices, *rest), in_dims, strict=True)
    ]
    got = torch.vmap(lambda *t: lowrank_embedding(*t, 3), in_dims)(*batched)
    for i in range(2):
        one = [t if d is None else t.select(d, i) for t, d in zip(batched, in_dims, strict=True)]
        assert_close("y", got[i], lowrank_embedding_reference(*one, 3))


def test_vmap_refuses_a_rank_per_sample():
    indices, table, up = factors()
    with pytest.raises(ValueError, match="rank must be readable as one number"):
        torch.vmap(lambda i, r: lowrank_embedding(i, table, up, r))(indices, torch.tensor([1, 2]))


class Layer(nn.Module):
    def __init__(self, padding_idx=None):
        super().__init__()
        _, table, up = factors()
        self.table, self.up, self.padding_idx = nn.Parameter(table), nn.Parameter(up), padding_idx
        self.register_buffer("rank", torch.tensor(8))

    def forward(self, indices, rank=None):
        rank = self.rank if rank is None else rank
        return lowrank_embedding(indices, self.table, self.up, rank, padding_idx=self.padding_idx)


def results(call, layer):
    y = call(factors()[0])
    y.square().sum().backward()
    found = [y.detach(), layer.table.grad, layer.up.grad]
    layer.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("padding_idx", [None, 3])
@pytest.mark.parametrize("dynamic", [None, True])
def test_one_graph_serves_every_rank_in_a_buffer(backend, padding_idx, dynamic):
    torch._dynamo.reset()
    layer, counter = Layer(padding_idx), CompileCounterWithBackend(backend)
    compiled = torch.compile(layer, backend=counter, fullgraph=True, dynamic=dynamic)
    for r in RANKS:
        layer.rank.fill_(r)
        for g, w in zip(results(compiled, layer), results(layer, layer), strict=True):
            assert_close(f"result at rank {r}", g, w)
    assert counter.frame_count == 1


def test_one_graph_serves_every_rank_in_an_argument():
    torch._dynamo.reset()
    layer, counter = Layer(), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True, dynamic=True)
    for r in RANKS:
        assert_close("y", compiled(factors()[0], r), layer(factors()[0], r))
    assert counter.frame_count == 1


@pytest.mark.parametrize("strict", [False, True])
def test_a_program_takes_any_rank_and_needs_torch_alone(strict):
    layer, indices = Layer(3).eval(), factors()[0]
    shapes = {"indices": {0: torch.export.Dim.DYNAMIC}, "rank": None}
    args = (indices, torch.tensor(4))
    exported = torch.export.export(layer, args, dynamic_shapes=shapes, strict=strict)
    calls = [str(n.target) for n in exported.graph.nodes if n.op == "call_function"]
    assert calls
    assert not any("lowrank" in call for call in calls)
    program, more = exported.module(), torch.cat([indices, indices, indices])
    for r in (0, 1, 7, 8):
        assert_close("y", program(more, torch.tensor(r)), layer(more, r))
    with pytest.raises(RuntimeError, match="Runtime assertion failed"):
        program(more, torch.tensor(9))


def test_flops_are_those_of_the_active_rank():
    from torch.utils.flop_counter import FlopCounterMode

    indices, table, up = factors()
    for product in (lowrank_embedding, operator):
        with FlopCounterMode(display=False) as counter:
            product(indices, table, up, 3)
        assert counter.get_total_flops() == 2 * 6 * 3 * 6


ERRORS = [
    ({"indices": [1]}, TypeError, "indices must be a tensor, got list"),
    ({"indices": torch.ones(2)}, TypeError, "indices must be int64 or int32, got torch.float32"),
    ({"indices": torch.tensor([10])}, ValueError, r"indices must be in 0\.\.9, got 10"),
    ({"indices": torch.tensor([2, -1])}, ValueError, r"indices must be in 0\.\.9, got -1"),
    ({"table": None}, TypeError, "table must be a tensor, got NoneType"),
    ({"table": torch.ones(10)}, ValueError, r"table must be \[V, R\], got \[10\]"),
    ({"table": torch.ones(10, 8).long()}, TypeError, "table must be float64, float32, float16"),
    ({"table": torch.ones(10, 7)}, ValueError,
     r"up must be \[out, R\] with R = 7, as table \[\d+, 7\] has it, got \[\d+, 8\]"),
    ({"up": torch.ones(6, 8, 1)}, ValueError, r"up must be \[out, R\], got \[6, 8, 1\]"),
    ({"up": torch.ones(6, 8).double()}, TypeError, "up must have the dtype of table"),
    ({"up": torch.ones(6, 8, device="meta")}, ValueError, "up must be on the device of table"),
    ({"indices": torch.ones(2, device="meta").long()}, ValueError,
     "indices must be on the device of table, cpu, got meta"),
    ({"rank": 9}, ValueError, r"rank must be in 0\.\.8, got 9"),
    ({"rank": 2.0}, TypeError, "rank must be an int"),
    ({"padding_idx": 10}, ValueError, r"padding_idx must be in -10\.\.9, got 10"),
    ({"padding_idx": True}, TypeError, "padding_idx must be an int or None, got bool True"),
]  # fmt: skip


@pytest.mark.parametrize(
    "change, kind, message", ERRORS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_names_what_is_wrong(change, kind, message):
    indices, table, up = factors()
    arguments = {"indices": indices, "table": table, "up": up, "rank": 3, "padding_idx": 2}
    with pytest.raises(kind, match=message):
        lowrank_embedding(**(arguments | change))
