import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from lowrank_kernels import lowrank_conv2d, lowrank_linear
from lowrank_kernels.testing import assert_close

RANKS = (12, 0, 1, 8, 11, 2, 3, 10, 5, 7)


class Layer(nn.Module):
    """A layer whose rank is a buffer, an int, or an argument."""

    def __init__(self, groups=0, rank=None):
        super().__init__()
        torch.manual_seed(0)
        self.groups, self.rank = groups, rank
        self.register_buffer("held", torch.tensor(12))
        down, up = (12, 6), (8, 12)
        if groups:
            down, up = (groups, 12, 6 // groups, 3, 3), (groups, 8 // groups, 12)
        if groups == 1:
            down, up = down[1:], up[1:]
        self.down, self.up = nn.Parameter(torch.randn(down)), nn.Parameter(torch.randn(up))
        self.bias = nn.Parameter(torch.randn(8))
        self.inner = nn.Parameter(torch.randn(down[: -3 if groups else -1]))

    def forward(self, x, rank=None):
        rank = self.rank or rank
        rank = self.held if rank is None else rank
        factors = (x, self.down, self.up, self.bias, rank)
        if not self.groups:
            return lowrank_linear(*factors, inner_bias=self.inner).relu()
        options = {"padding": "same", "groups": self.groups}
        return lowrank_conv2d(*factors, inner_bias=self.inner, **options).relu()


def inputs(layer):
    torch.manual_seed(1)
    return torch.randn(2, 6, 7, 5) if layer.groups else torch.randn(5, 6)


def results(call, layer):
    """Return the output and all gradients."""
    x = inputs(layer).requires_grad_()
    y = call(x)
    y.square().sum().backward()
    found = [y, x.grad, *(p.grad for p in layer.parameters())]
    layer.zero_grad(set_to_none=True)
    return [t.detach() for t in found]


def compiled(layer, backend, *, dynamic=None):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    return torch.compile(layer, backend=counter, fullgraph=True, dynamic=dynamic), counter


def assert_same(got, want, r):
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        assert_close(f"result {i} at rank {r}", g, w, rtol=2e-5)


@pytest.mark.parametrize("groups", [0, 1, 2])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("dynamic", [None, True])
def test_one_graph_serves_every_rank_in_a_buffer(backend, groups, dynamic):
    layer = Layer(groups)
    fast, counter = compiled(layer, backend, dynamic=dynamic)
    for r in RANKS:
        layer.held.fill_(r)
        assert_same(results(fast, layer), results(layer, layer), r)
    assert counter.frame_count == 1


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("groups", [0, 2])
def test_inductor_serves_every_rank_with_one_graph(groups):
    layer = Layer(groups)
    fast, counter = compiled(layer, "inductor")
    for r in RANKS:
        layer.held.fill_(r)
        assert_same(results(fast, layer), results(layer, layer), r)
    assert counter.frame_count == 1


@pytest.mark.parametrize("groups", [0, 1, 2])
@pytest.mark.parametrize("kind", [int, torch.tensor])
def test_one_graph_serves_every_rank_in_an_argument(groups, kind):
    layer = Layer(groups)
    fast, counter = compiled(layer, "aot_eager", dynamic=True)
    for r in RANKS:
        got = results(lambda x, r=r: fast(x, kind(r)), layer)
        assert_same(got, results(lambda x, r=r: layer(x, r), layer), r)
    assert counter.frame_count == 1


@pytest.mark.parametrize("groups", [0, 1])
def test_an_int_argument_compiles_twice_where_sizes_are_static_at_first(groups):
    layer = Layer(groups)
    fast, counter = compiled(layer, "aot_eager")
    for r in (7, 3, 12, 8, 2):
        assert_same([fast(inputs(layer), r)], [layer(inputs(layer), r)], r)
    assert counter.frame_count == 2


@pytest.mark.parametrize("groups", [0, 1, 2])
def test_an_int_attribute_is_a_constant_without_operators_of_ours(groups):
    layer = Layer(groups, rank=5)
    fast, counter = compiled(layer, "aot_eager")
    assert_same(results(fast, layer), results(layer, layer), 5)
    (graph,) = counter.graphs
    assert not any("lowrank" in str(node.target) for node in graph.graph.nodes)


def test_batches_of_other_sizes_and_ranks_share_a_graph():
    layer = Layer()
    fast, counter = compiled(layer, "aot_eager", dynamic=True)
    with torch.no_grad():
        for rows, r in ((5, 12), (3, 4), (9, 0), (2, 1), (64, 7)):
            layer.held.fill_(r)
            x = torch.randn(rows, 6)
            assert_close("y", fast(x), layer(x))
    assert counter.frame_count == 1


@pytest.mark.parametrize("groups", [0, 1])
def test_autocast_in_and_around_a_graph_gives_what_it_gives_without(groups):
    layer = Layer(groups)
    layer.held.fill_(7)

    def inside(x):
        with torch.autocast("cpu", torch.bfloat16):
            return layer(x)

    fast, _ = compiled(inside, "aot_eager")
    with torch.no_grad():
        x, want = inputs(layer), inside(inputs(layer))
        got = fast(x)
        assert got.dtype == want.dtype == torch.bfloat16
        assert_close("inside", got, want)
        around, _ = compiled(layer, "aot_eager")
        with torch.autocast("cpu", torch.bfloat16):
            assert_close("around", around(x), want)


def test_gradients_flow_under_autocast_in_a_graph():
    layer = Layer()
    layer.held.fill_(7)

    def loss(x):
        with torch.autocast("cpu", torch.bfloat16):
            return layer(x).float()

    fast, _ = compiled(loss, "aot_eager")
    for g, w in zip(results(fast, layer), results(loss, layer), strict=True):
        assert g.dtype == w.dtype
        assert_close("result", g, w, rtol=4e-2)


def test_vmap_in_a_graph_maps_the_rows():
    layer = Layer()
    layer.held.fill_(7)
    fast, _ = compiled(torch.vmap(layer), "aot_eager")
    x = torch.randn(4, 3, 6)
    with torch.no_grad():
        assert_close("y", fast(x), layer(x))


def test_a_rank_out_of_range_is_refused_when_the_graph_runs():
    layer = Layer()
    fast, _ = compiled(layer, "aot_eager")
    layer.held.fill_(13)
    with torch.no_grad(), pytest.raises(ValueError, match=r"rank must be in 0\.\.12, got 13"):
        fast(inputs(layer))


def test_a_wrong_shape_is_named_while_tracing():
    layer = Layer()
    fast, _ = compiled(layer, "eager")
    with pytest.raises(Exception, match=r"x must be \[\.\.\., in\] with in = "):
        fast(torch.randn(5, 7))
