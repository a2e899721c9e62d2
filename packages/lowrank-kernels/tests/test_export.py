import pytest
import torch
from torch import nn

from lowrank_kernels import lowrank_conv2d, lowrank_linear
from lowrank_kernels.testing import assert_close

SIZES = {
    "linear": ((5, 6), (9, 6), (4, 9)),
    "conv": ((2, 4, 6, 5), (9, 4, 3, 3), (4, 9)),
    "grouped": ((2, 4, 6, 5), (2, 9, 2, 3, 3), (2, 2, 9)),
}


class Layer(nn.Module):
    def __init__(self, kind, *, held):
        super().__init__()
        torch.manual_seed(0)
        _, down, up = SIZES[kind]
        self.kind, self.held = kind, held
        self.down, self.up = nn.Parameter(torch.randn(down)), nn.Parameter(torch.randn(up))
        self.bias = nn.Parameter(torch.randn(4))
        if held:
            self.register_buffer("rank", torch.tensor(9))

    def forward(self, x, rank=None):
        factors = (self.down, self.up, self.bias, self.rank if self.held else rank)
        if self.kind == "linear":
            return lowrank_linear(x, *factors)
        return lowrank_conv2d(x, *factors, padding=1, groups=1 + (self.kind == "grouped"))


def exported(layer, x, *rank, strict=False):
    rows = {0: torch.export.Dim.DYNAMIC}
    shapes = {"x": rows} | ({"rank": None} if rank else {})
    return torch.export.export(layer.eval(), (x, *rank), dynamic_shapes=shapes, strict=strict)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", SIZES)
def test_a_program_takes_any_rank_as_a_tensor(kind, strict):
    layer, x = Layer(kind, held=False), torch.randn(SIZES[kind][0])
    program = exported(layer, x, torch.tensor(4), strict=strict).module()
    for r in (1, 2, 8, 9):
        more = torch.cat([x, x, x])
        assert_close("y", program(more, torch.tensor(r)), layer(more, r))


@pytest.mark.parametrize("kind", SIZES)
def test_a_program_reads_the_rank_in_its_buffer(kind):
    layer, x = Layer(kind, held=True), torch.randn(SIZES[kind][0])
    program = exported(layer, x).module()
    for r in (1, 5, 9):
        program.rank.fill_(r)
        layer.rank.fill_(r)
        assert_close("y", program(x), layer(x))


@pytest.mark.parametrize("kind", SIZES)
def test_a_program_needs_torch_alone(kind):
    program = exported(Layer(kind, held=False), torch.randn(SIZES[kind][0]), torch.tensor(4))
    calls = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert calls
    assert not any("lowrank" in call for call in calls)


def test_a_linear_program_takes_rank_zero():
    layer, x = Layer("linear", held=False), torch.randn(5, 6)
    program = exported(layer, x, torch.tensor(4)).module()
    assert_close("y", program(x, torch.tensor(0)), layer.bias.expand(5, 4))


@pytest.mark.parametrize("kind, r", [("linear", -1), ("linear", 10), ("conv", 0), ("grouped", 10)])
def test_a_program_refuses_a_rank_out_of_range(kind, r):
    x = torch.randn(SIZES[kind][0])
    program = exported(Layer(kind, held=False), x, torch.tensor(4)).module()
    with pytest.raises(RuntimeError, match="Runtime assertion failed"):
        program(x, torch.tensor(r))


@pytest.mark.parametrize("kind", SIZES)
def test_a_program_survives_a_file(kind, tmp_path):
    layer, x = Layer(kind, held=False), torch.randn(SIZES[kind][0])
    torch.export.save(exported(layer, x, torch.tensor(4)), tmp_path / "program.pt2")
    loaded = torch.export.load(tmp_path / "program.pt2").module()
    assert_close("y", loaded(x, torch.tensor(3)), layer(x, 3))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")
def test_a_linear_program_compiles_ahead_of_time_for_all_ranks(tmp_path):
    layer, x = Layer("linear", held=False), torch.randn(5, 6)
    program = exported(layer, x, torch.tensor(4))
    path = torch._inductor.aoti_compile_and_package(
        program, package_path=str(tmp_path / "layer.pt2")
    )
    loaded = torch._inductor.aoti_load_package(path)
    for r in (0, 1, 4, 9):
        assert_close("y", loaded(x, torch.tensor(r)), layer(x, r))
