import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st

from spike_ops import SpikeTensor, functional, pack_bits, unpack_bits
from spike_ops.neuron import LIF
from spike_ops.nn import Linear

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def zeros_and_ones(*shape, density=0.3, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator) < density).to(dtype)


# what rearranges gives spikes again
REARRANGE = {
    "detach": lambda s: s.detach(),
    "clone": lambda s: s.clone(),
    "contiguous": lambda s: s.contiguous(),
    "view": lambda s: s.view(3, -1),
    "reshape": lambda s: s.reshape(-1),
    "flatten": lambda s: s.flatten(1),
    "unflatten": lambda s: s.unflatten(2, (2, 4)),
    "unsqueeze": lambda s: s.unsqueeze(-1),
    "squeeze": lambda s: s.unsqueeze(1).squeeze(1),
    "squeeze nothing": lambda s: s.squeeze(0),
    "squeeze all": lambda s: s[None, :, None].squeeze(),
    "squeeze some": lambda s: s[None, :, None].squeeze((0, 1)),
    "transpose": lambda s: s.transpose(0, 2),
    "t": lambda s: s.view(6, 20).t(),
    "t of t": lambda s: s.view(6, 20).t().t(),
    "t reshaped": lambda s: s.view(6, 20).t().reshape(-1),
    "t sliced": lambda s: s.view(6, 20).t()[3:9],
    "mT": lambda s: s.mT,
    "permute": lambda s: s.permute(2, 0, 1),
    "row": lambda s: s[1],
    "last row": lambda s: s[-1],
    "column": lambda s: s[:, 2],
    "rows at bytes": lambda s: s[1:3],
    "rows off bytes": lambda s: s.view(24, 5)[1:4],
    "no rows": lambda s: s[2:2],
    "every second": lambda s: s[:, ::2],
    "columns": lambda s: s[:, :, 1:4],
    "chosen rows": lambda s: s[torch.tensor([2, 0, 0])],
    "index_select": lambda s: s.index_select(1, torch.tensor([4, 1])),
    "masked": lambda s: s[s > 0],
    "flip": lambda s: s.flip(0, 2),
    "roll": lambda s: s.roll(2, 1),
    "narrow": lambda s: s.narrow(1, 1, 3),
    "cat": lambda s: torch.cat([s, s[:1]], 0),
    "cat columns": lambda s: torch.cat([s, s], 2),
    "stack": lambda s: torch.stack([s, s], 1),
    "unbind": lambda s: s.unbind(0)[1],
    "unbind columns": lambda s: s.unbind(2)[1],
    "split": lambda s: s.split(2)[1],
    "split by sizes": lambda s: s.split([1, 2, 2], 1)[2],
    "chunk": lambda s: s.chunk(2, 1)[1],
    "iteration": lambda s: list(s)[2],
    "double": lambda s: s.double(),
    "half": lambda s: s.to(torch.float16),
}
# what computes gives plain tensors
COMPUTE = {
    "bool": lambda s: s.bool(),
    "int": lambda s: s.to(torch.int32),
    "add": lambda s: s + 1,
    "radd": lambda s: 1 - s,
    "mul": lambda s: s * s,
    "compare": lambda s: s > 0.5,
    "where": lambda s: torch.where(s > 0, 2.0, 3.0),
    "sum": lambda s: s.sum(),
    "mean": lambda s: s.mean((0, 2)),
    "count_nonzero": lambda s: s.count_nonzero(),
    "max": lambda s: s.max(),
    "zeros_like": torch.zeros_like,
    "expand": lambda s: s[None].expand(2, -1, -1, -1),
    "cat with floats": lambda s: torch.cat([s, torch.ones(1, 5, 8)]),
    "bmm": lambda s: s @ torch.arange(24.0).view(3, 8, 1),
    "mv": lambda s: s.view(15, 8) @ torch.arange(8.0),
    "vm": lambda s: s[0, 0] @ torch.arange(16.0).view(8, 2),
    "spikes @ spikes": lambda s: s.view(15, 8) @ s.view(15, 8).t(),
    "embedding of conv": lambda s: F.conv1d(s, torch.ones(2, 5, 3), padding=1),
    "avg_pool": lambda s: F.avg_pool1d(s, 2),
    "copy into": lambda s: torch.empty(3, 5, 8).copy_(s),
}


@pytest.mark.parametrize("name", REARRANGE)
def test_rearranged_spikes_are_spikes_with_the_dense_values(name):
    dense = zeros_and_ones(3, 5, 8)
    got, expected = REARRANGE[name](SpikeTensor.from_dense(dense)), REARRANGE[name](dense)
    assert isinstance(got, SpikeTensor)
    assert got.dtype == expected.dtype
    assert got.count == int(expected.sum())
    assert torch.equal(got.to_dense(), expected)


@pytest.mark.parametrize("name", COMPUTE)
def test_any_other_operation_sees_the_dense_values(name):
    dense = zeros_and_ones(3, 5, 8)
    got, expected = COMPUTE[name](SpikeTensor.from_dense(dense)), COMPUTE[name](dense)
    assert type(got) is torch.Tensor
    assert got.dtype == expected.dtype
    assert torch.equal(got, expected)


DIFFERENTIABLE = [
    *(set(REARRANGE) - {"detach"}),
    "add", "radd", "mul", "where", "sum", "mean", "expand", "cat with floats", "bmm",
    "mv", "vm", "spikes @ spikes", "embedding of conv", "avg_pool",
]  # fmt: skip


@pytest.mark.parametrize("name", sorted(DIFFERENTIABLE))
def test_gradients_are_those_of_the_dense_tensor(name):
    operation = (REARRANGE | COMPUTE)[name]
    gradients = []
    for wrap in (SpikeTensor.from_dense, torch.clone):
        leaf = zeros_and_ones(3, 5, 8).requires_grad_()
        result = operation(wrap(leaf))
        weights = torch.arange(result.numel(), dtype=torch.float32).view(result.shape)
        (result * weights).sum().backward() if result.requires_grad else None
        gradients.append(leaf.grad)
    if name == "where":
        assert gradients == [None, None]
    else:
        assert torch.equal(*gradients)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (4, 0), (1,), (9,), (2, 3, 5), (8, 16)])
def test_dense_and_back(shape, dtype):
    dense = zeros_and_ones(*shape, dtype=dtype)
    spikes = SpikeTensor.from_dense(dense)
    assert (spikes.dtype, spikes.shape) == (dtype, dense.shape)
    assert torch.equal(spikes.to_dense(), dense)
    assert torch.equal(spikes.elem, dense.bool())
    assert spikes.count == int(dense.sum())
    assert spikes.nbytes == -(-dense.numel() // 8)


def test_zeros_stay_zeros():  # the seed's from_dense made all of them fire
    assert SpikeTensor.from_dense(torch.zeros(3, 3)).count == 0


def test_nothing_is_printed(capsys):  # the seed's products told of themselves on stdout
    SpikeTensor.from_dense(torch.eye(3)) @ torch.ones(3, 2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64])
def test_whole_numbers_become_float32(kind):
    assert SpikeTensor.from_dense(torch.tensor([0, 1]).to(kind)).dtype == torch.float32


@pytest.mark.parametrize("value", [2.0, -1.0, 0.5, float("nan"), float("inf")])
def test_what_is_not_zero_or_one_is_refused_by_its_place(value):
    dense = torch.zeros(3, 4)
    dense[2, 1] = value
    with pytest.raises(ValueError, match=rf"spikes must be 0 or 1, got {value:g} at \(2, 1\)"):
        SpikeTensor.from_dense(dense)


def test_wrong_bits_are_refused():
    packed = pack_bits(torch.ones(9))
    with pytest.raises(ValueError, match=r"2 bytes for shape \(3, 3\), got 3 bytes"):
        SpikeTensor(torch.zeros(3, dtype=torch.uint8), (3, 3))
    with pytest.raises(ValueError, match="no bit set behind the 9 elements"):
        SpikeTensor(packed | torch.tensor([0, 2], dtype=torch.uint8), (3, 3))
    with pytest.raises(ValueError, match="dtype must be a floating-point type"):
        SpikeTensor(packed, (3, 3), torch.int32)
    with pytest.raises(TypeError, match="flat tensor of uint8"):
        SpikeTensor(packed.float(), (3, 3))
    with pytest.raises(TypeError, match="flat tensor of uint8"):
        SpikeTensor(packed[None], (3, 3))


WRITES = {
    "setitem": lambda s: s.__setitem__(0, 1.0),
    "add_": lambda s: s.add_(1),
    "zero_": lambda s: s.zero_(),
    "copy_": lambda s: s.copy_(torch.zeros(2, 4)),
    "out": lambda s: torch.add(torch.ones(2, 4), 1, out=s),
    "masked_fill_": lambda s: s.masked_fill_(s > 0, 0.0),
    "one of several": lambda s: torch._foreach_mul_([torch.ones(2, 4), s], 2.0),
    "several": lambda s: torch._foreach_add_((s, s), [torch.ones(2, 4)] * 2),
    "outs": lambda s: torch.max(torch.ones(2, 4), 1, out=(s, torch.zeros(2, dtype=torch.long))),
}


BITS = torch.zeros(1, dtype=torch.uint8)
WRONG = {
    "an array": (lambda: SpikeTensor.from_dense(np.eye(3)), TypeError, "Tensor, got ndarray"),
    "a list": (lambda: SpikeTensor.from_dense([0, 1]), TypeError, "dense must be a torch.Tensor"),
    "an array in a product": (
        lambda: functional.spike_mm(np.eye(3), torch.ones(3, 2)), TypeError, "spikes must be a",
    ),
    "bits in a list": (lambda: SpikeTensor([1], (3,)), TypeError, "of uint8, got list"),
    "bits in an array": (lambda: SpikeTensor(BITS.numpy(), (3,)), TypeError, "got ndarray"),
    "one size": (lambda: SpikeTensor(BITS, 3), TypeError, "sizes from 0, got 3"),
    "half a size": (lambda: SpikeTensor(BITS, (3.0,)), TypeError, "sizes from 0"),
    "a negative size": (lambda: SpikeTensor(BITS[:0], (-3, 0)), TypeError, "sizes from 0"),
    "two of them": (lambda: SpikeTensor(BITS, (-3, -2)), TypeError, "sizes from 0"),
    "a row turned": (lambda: SpikeTensor(BITS, (3,), transposed=True), ValueError, "a matrix"),
    "a block turned": (
        lambda: SpikeTensor(BITS, (2, 2, 2), transposed=True), ValueError, "a matrix",
    ),
    "places of others": (
        lambda: SpikeTensor(BITS, (3,), index=SpikeTensor(BITS.clone(), (3,)).index),
        ValueError, "index must be that of spikes with the same bits",
    ),
    "packing an array": (lambda: pack_bits(np.eye(3)), TypeError, "fired must be a torch.Tensor"),
    "unpacking an array": (lambda: unpack_bits(BITS.numpy(), (3,)), TypeError, "packed must be"),
    "unpacking too few": (lambda: unpack_bits(BITS, (9,)), ValueError, "must have 2 bytes"),
    "unpacking too many": (lambda: unpack_bits(BITS.repeat(2), (3,)), ValueError, "1 bytes"),
    "unpacking numbers": (lambda: unpack_bits(torch.zeros(1), (3,)), TypeError, "flat tensor"),
    "unpacking one size": (lambda: unpack_bits(BITS, 3), TypeError, "sizes from 0, got 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_bits_of_a_shape_is_refused_by_name(name):
    make, error, rule = WRONG[name]
    with pytest.raises(error, match=rule):
        make()


@pytest.mark.parametrize("name", WRITES)
def test_writing_into_spikes_is_refused_and_changes_nothing(name):
    dense = zeros_and_ones(2, 4)
    spikes = SpikeTensor.from_dense(dense)
    with pytest.raises(TypeError, match="spikes cannot be written into"):
        WRITES[name](spikes)
    assert torch.equal(spikes.to_dense(), dense)


def test_views_share_bits_and_what_was_found():
    spikes = SpikeTensor.from_dense(zeros_and_ones(4, 2, 8))
    for view in (spikes.view(8, 8), spikes.flatten(), spikes.detach(), spikes.double()):
        assert view.packed.data_ptr() == spikes.packed.data_ptr()
        assert view.index is spikes.index
    assert spikes.view(8, 8).t().index is spikes.index
    assert spikes[1:3].packed.data_ptr() == spikes.packed.data_ptr() + 2


def test_what_python_asks_for():
    dense = zeros_and_ones(2, 5)
    spikes = SpikeTensor.from_dense(dense)
    assert spikes.tolist() == dense.tolist()
    assert np.array_equal(spikes.numpy(), dense.numpy())
    assert np.asarray(spikes, dtype=np.int8).dtype == np.int8
    assert np.array_equal(np.array(spikes), dense.numpy())
    assert torch.equal(torch.from_dlpack(spikes), dense)
    assert spikes[0, 0].item() == dense[0, 0].item()
    assert len(spikes) == 2
    assert repr(spikes) == f"SpikeTensor(shape=(2, 5), spikes={int(dense.sum())} of 10)"
    assert spikes.share_memory_().is_shared()


def test_deep_copies_are_their_own():
    spikes = SpikeTensor.from_dense(zeros_and_ones(3, 8))
    copied = copy.deepcopy(spikes)
    assert torch.equal(copied.to_dense(), spikes.to_dense())
    assert copied.packed.data_ptr() != spikes.packed.data_ptr()
    leaf = zeros_and_ones(3, 8).requires_grad_()
    with pytest.raises(RuntimeError, match="only spikes made by the user"):
        copy.deepcopy(SpikeTensor.from_dense(leaf))


ACROSS = """
import torch
from spike_ops import SpikeTensor

def tell(spikes, queue):
    queue.put((type(spikes).__name__, spikes.t().count, spikes.to_dense().sum(1).tolist()))

if __name__ == "__main__":
    context = torch.multiprocessing.get_context("spawn")
    dense = torch.eye(4, 9)
    dense[2] = 1
    queue = context.SimpleQueue()
    worker = context.Process(target=tell, args=(SpikeTensor.from_dense(dense), queue))
    worker.start()
    worker.join()
    print(worker.exitcode, queue.get())
"""


def test_spikes_cross_processes(tmp_path):
    # a child begins from a file of its own: it cannot import this one
    script = tmp_path / "across.py"
    script.write_text(ACROSS)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "0 ('SpikeTensor', 12, [1.0, 1.0, 9.0, 1.0])\n", done.stderr


@given(
    st.integers(0, 6), st.integers(0, 20), st.integers(0, 6), st.integers(0, 6), st.integers(1, 3)
)
def test_any_slice_is_that_of_the_dense_tensor(rows, columns, first, last, step):
    dense = zeros_and_ones(rows, columns, seed=rows)
    spikes = SpikeTensor.from_dense(dense)
    assert torch.equal(spikes[first:last:step].to_dense(), dense[first:last:step])
    assert torch.equal(spikes[:, first:last:step].to_dense(), dense[:, first:last:step])


def test_saved_for_the_backward_pass_are_the_bits():
    saved = []
    weight = torch.randn(512, 4, requires_grad=True)
    spikes = SpikeTensor.from_dense(zeros_and_ones(64, 512))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        spikes @ weight
    assert [each.nbytes for each in saved if isinstance(each, SpikeTensor)] == [64 * 512 // 8]
    assert len(saved) == 1


# torch's own tracing instantiates what torch deprecates, and asks spikes for their gradient
traced = pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning",
    "ignore:The .grad attribute",
    "ignore:.*torch.jit:DeprecationWarning",
)


def compiled_and_plain(function):
    torch.compiler.reset()
    return torch.compile(function, backend="aot_eager"), function


@traced
@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: net(x),
        lambda net, x: net(x)[0].t(),
        lambda net, x: (net(x), net(x) @ torch.ones(5, 2)),
    ],
    ids=["spikes", "transposed", "spikes and a product"],
)
def test_gradients_reach_through_the_spikes_that_a_compiled_graph_returns(function):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 5), LIF(spike_out=True))
    x = torch.randn(3, 4, 6)
    found = []
    for call in compiled_and_plain(lambda x: function(net, x)):
        net.zero_grad()
        given = call(x)
        first, *more = given if isinstance(given, tuple) else (given,)
        assert isinstance(first, SpikeTensor)
        weights = torch.arange(first.numel()).reshape(first.shape) / 10
        ((first * weights).sum() + sum((each**2).sum() for each in more)).backward()
        found.append(net[0].weight.grad.clone())
    torch.testing.assert_close(found[0], found[1])
    assert found[1].any()


@traced
def test_a_graph_that_breaks_behind_spikes_goes_on_with_them():
    torch.manual_seed(0)
    neurons, x = LIF(spike_out=True), torch.randn(3, 4, 6, requires_grad=True)

    def broken(x):
        spikes = neurons(x)
        torch._dynamo.graph_break()
        return spikes @ torch.ones(6, 2)

    gradients = [torch.autograd.grad(f(x).square().sum(), x)[0] for f in compiled_and_plain(broken)]
    torch.testing.assert_close(*gradients)


@traced
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_what_is_not_zero_or_one_is_refused_in_a_compiled_graph_too(backend):
    torch.compiler.reset()
    compiled = torch.compile(SpikeTensor.from_dense, backend=backend)
    dense = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    assert torch.equal(compiled(dense).to_dense(), dense)
    for value in (0.5, -1.0, float("nan")):
        dense[1, 0] = value
        with pytest.raises(ValueError, match=rf"must be 0 or 1, got {value:g} at \(1, 0\)"):
            compiled(dense)


@traced
def test_a_compiled_layer_of_spikes_refuses_currents():
    torch.compiler.reset()
    layer = Linear(8, 4, spike_in=True)
    compiled, spikes = torch.compile(layer, backend="aot_eager"), zeros_and_ones(3, 8)
    torch.testing.assert_close(compiled(spikes), layer(spikes))
    with pytest.raises(ValueError, match="must be 0 or 1"):
        compiled(torch.rand(3, 8, requires_grad=True))


REFUSED = {
    "select": lambda s: s.select(0, 5),
    "select before": lambda s: s.select(1, -6),
    "select dim": lambda s: s.select(7, 0),
    "select of none": lambda s: s[:0].select(0, 0),
    "unsqueeze": lambda s: s.unsqueeze(7),
    "unsqueeze before": lambda s: s.unsqueeze(-5),
    "squeeze": lambda s: s.squeeze(9),
    "squeeze some": lambda s: s.squeeze((0, -4)),
    "squeeze twice": lambda s: s.squeeze((0, -3)),
    "transpose": lambda s: s.transpose(0, 7),
    "transpose of two": lambda s: s[0].transpose(0, 7),
    "permute": lambda s: s.permute(0, 1),
    "slice dim": lambda s: torch.ops.aten.slice.Tensor(s, 3, 0, 1),
    "slice step": lambda s: torch.ops.aten.slice.Tensor(s, 0, 0, 1, 0),
    "narrow": lambda s: s.narrow(1, 3, 3),
    "split dim": lambda s: s.split(2, 3),
    "split by none": lambda s: s.split(0),
    "split by less": lambda s: s.split(-1),
    "split by too few": lambda s: s.split([1, 1]),
    "split by too many": lambda s: s.split([3, 1]),
    "split by negative": lambda s: s.split([4, -1]),
    "unbind": lambda s: s.unbind(3),
    "cat": lambda s: torch.cat([s, s], 3),
    "cat of others": lambda s: torch.cat([s, s[:, 1:]], 2),
    "view": lambda s: s.view(7, -1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_refuses_of_a_tensor_it_refuses_of_spikes(name):
    dense, errors = zeros_and_ones(3, 5, 8), []
    for tensor in (dense, SpikeTensor.from_dense(dense)):
        with pytest.raises((IndexError, RuntimeError, ValueError)) as error:
            REFUSED[name](tensor)
        errors.append(error)
    if name != "view":
        assert errors[0].type is errors[1].type
        assert str(errors[0].value) == str(errors[1].value)


@pytest.mark.parametrize("first", DTYPES, ids=str)
@pytest.mark.parametrize("second", DTYPES, ids=str)
@pytest.mark.parametrize("join", [torch.cat, torch.stack], ids=["cat", "stack"])
def test_joined_spikes_have_the_type_of_joined_tensors(join, first, second):
    dense = [zeros_and_ones(2, 3, dtype=first), zeros_and_ones(2, 3, dtype=second, seed=1)]
    got, expected = join([SpikeTensor.from_dense(each) for each in dense]), join(dense)
    assert isinstance(got, SpikeTensor)
    assert got.dtype == expected.dtype
    assert torch.equal(got.to_dense(), expected)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_single_spike_is_rearranged_as_a_single_number(value):
    for rearrange in (
        lambda s: s.permute(()),
        lambda s: s.unsqueeze(-1),
        lambda s: s.squeeze(),
        lambda s: s.squeeze(0),
        lambda s: s.transpose(0, -1),
        lambda s: s.mT if s.ndim > 1 else s.t(),
    ):
        dense = torch.tensor(value)
        assert torch.equal(rearrange(SpikeTensor.from_dense(dense)), rearrange(dense))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_no_spikes_are_split_as_nothing_is(shape):
    dense = torch.zeros(shape)
    for size in (2, [0, dense.shape[0]]):
        parts = SpikeTensor.from_dense(dense).split(size)
        assert [each.shape for each in parts] == [each.shape for each in dense.split(size)]


@pytest.mark.parametrize("step", [2, 3, -1])
def test_bits_that_lie_apart_are_those_of_a_copy(step):
    whole = torch.tensor([255, 0, 3, 0, 255, 7], dtype=torch.uint8)
    packed = whole[::step] if step > 0 else torch.stack([whole, whole], 1)[:, 0]
    shape, weight = (len(packed), 8), torch.randn(8, 5)
    got, expected = SpikeTensor(packed, shape), SpikeTensor(packed.clone(), shape)
    assert got.packed.is_contiguous()
    assert got.count == expected.count
    assert torch.equal(got @ weight, expected @ weight)
    assert torch.equal(got.to_dense(), expected.to_dense())
    assert torch.equal(torch.ops.spike_ops.unpack(packed, shape, torch.float32), got.to_dense())
