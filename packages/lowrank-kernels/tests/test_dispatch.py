import copy
import pickle

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from lowrank_kernels import Calibration, Dispatched, Dispatcher, dispatch, lowrank_linear
from lowrank_kernels._calibration import Key
from lowrank_kernels.testing import LINEAR_LAWS, assert_close

FORMS = ("dense", "factored", "packed")


def planted(down, up, *fastest, batches=(1,)):
    """A dispatcher for which one form is the fastest at each batch."""
    fastest, batches = (*fastest, fastest[-1]), (*batches, 10**6)
    seconds = {form: tuple(((1.0 if form == best else 2.0),) for best in fastest) for form in FORMS}
    table = Calibration(Key.of(down, up), batches, (1,), seconds)
    return Dispatcher([table], cache=False)


def in_form(form, **options):
    def product(x, down, up, bias=None, rank=None, *, inner_bias=None):
        dispatcher = planted(down, up, form)
        given = {"inner_bias": inner_bias, "dispatcher": dispatcher, **options}
        return dispatch(down, up, bias, rank, **given)(x)

    return product


@pytest.mark.parametrize("law", LINEAR_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_obeys(form, dtype, law):
    law(in_form(form), torch.empty(0, dtype=dtype))


def factors(dtype=torch.float32):
    torch.manual_seed(0)
    return [torch.randn(s, dtype=dtype) for s in ((3, 6), (5, 6), (4, 5), (4,))]


def test_each_batch_runs_in_its_own_form():
    _, down, up, bias = factors()
    dispatcher = planted(down, up, "packed", "factored", "dense", batches=(1, 8, 64))
    product = dispatch(down, up, bias, 3, dispatcher=dispatcher)
    chosen = {rows: product.form(rows) for rows in (0, 1, 7, 8, 63, 64, 1000)}
    assert chosen == {
        0: "packed", 1: "packed", 7: "packed", 8: "factored", 63: "factored", 64: "dense",
        1000: "dense",
    }  # fmt: skip
    for rows in chosen:
        x = torch.randn(rows, 6)
        assert_close("y", product(x), lowrank_linear(x, down, up, bias, 3))


def test_memory_is_held_only_for_the_forms_that_were_asked_for():
    x, down, up, bias = factors()
    dispatcher = planted(down, up, "packed", "factored", "dense", batches=(1, 8, 64))
    product = dispatch(down, up, bias, 3, dispatcher=dispatcher)
    assert product.copied_bytes == 0
    product(torch.randn(8, 6))
    assert product.copied_bytes == 0
    product(x)
    assert product.copied_bytes == 4 * 4 * 3
    product(torch.randn(64, 6)), product(torch.randn(2, 50, 6))
    assert product.copied_bytes == 4 * (4 * 3 + 4 * 6)
    at_once = dispatch(down, up, bias, 3, dispatcher=dispatcher, batch=(1, 64))
    assert at_once.copied_bytes == 4 * (4 * 3 + 4 * 6)
    one = dispatch(down, up, bias, 3, dispatcher=dispatcher, batch=64)
    assert one.copied_bytes == 4 * 4 * 6


def test_a_weight_at_hand_is_used_and_not_copied():
    x, down, up, bias = factors()
    weight = torch.randn(4, 6)
    product = dispatch(
        down, up, bias, 3, weight=weight, copies=False, dispatcher=planted(down, up, "dense")
    )
    assert torch.equal(product(x), torch.nn.functional.linear(x, weight, bias))
    assert product.copied_bytes == 0


def test_without_copies_only_views_are_used():
    x, down, up, bias = factors()
    for form in FORMS:
        product = dispatch(down, up, bias, 3, copies=False, dispatcher=planted(down, up, form))
        assert product.form(3) == "factored"
        assert product.explain(3).chosen == "factored"
        product(x)
        assert product.copied_bytes == 0
    columns = up.t().contiguous().t()
    product = dispatch(down, columns, copies=False, dispatcher=planted(down, columns, "packed"))
    assert product.form(3) == "packed"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("changed", [1, 2, 3, 4])
def test_a_change_of_a_factor_in_place_is_seen(form, changed):
    tensors = [*factors(), torch.randn(5)]
    x, down, up, bias, inner = tensors
    dispatcher = planted(down, up, form)
    product = dispatch(down, up, bias, 3, inner_bias=inner, dispatcher=dispatcher)
    with torch.no_grad():
        before = product(x)
        tensors[changed].mul_(3)
        for _ in range(2):
            got = product(x)
            assert_close("y", got, lowrank_linear(x, down, up, bias, 3, inner_bias=inner))
            assert not torch.equal(got, before)


@pytest.mark.parametrize("form", FORMS)
def test_a_change_is_seen_by_batches_of_another_shape_too(form):
    x, down, up, bias = factors()
    product = dispatch(down, up, bias, 3, dispatcher=planted(down, up, form))
    with torch.no_grad():
        product(x)
        up.mul_(3)
        for given in (x[:2], x[None], x):
            assert_close("y", product(given), lowrank_linear(given, down, up, bias, 3))


@pytest.mark.parametrize("form", FORMS)
def test_gradients_reach_the_factors_though_a_form_was_kept(form):
    tensors = factors(torch.float64)
    product = dispatch(*tensors[1:], 3, dispatcher=planted(*tensors[1:3], form))
    with torch.no_grad():
        product(tensors[0])
    leaves = [t.requires_grad_() for t in tensors]
    got = torch.autograd.grad(product(leaves[0]).square().sum(), leaves)
    want = torch.autograd.grad(lowrank_linear(*leaves, 3).square().sum(), leaves)
    for name, g, w in zip(("x", "down", "up", "bias"), got, want, strict=True):
        assert_close(f"gradient of {name}", g, w)


@pytest.mark.parametrize("form", FORMS)
def test_frozen_factors_still_send_gradients_to_the_input(form):
    x, *rest = (t.requires_grad_() for t in factors(torch.float64))
    product = dispatch(*rest, 3, frozen=True, dispatcher=planted(*rest[:2], form))
    assert torch.autograd.gradcheck(product, [x])
    want = torch.autograd.grad(lowrank_linear(x, *rest, 3).sum(), x)[0]
    assert_close("gradient", torch.autograd.grad(product(x).sum(), x)[0], want)


def test_the_kernel_of_one_launch_is_asked_for_by_name(monkeypatch):
    asked = []

    def recorded(*args, implementation, **options):
        asked.append(implementation)
        return lowrank_linear(*args, **options)

    monkeypatch.setattr("lowrank_kernels._execute.lowrank_linear", recorded)
    x, down, up, bias = factors()
    seconds = dict.fromkeys(FORMS, ((2.0,),)) | {"fused": ((1.0,),)}
    table = Calibration(Key.of(down, up), (1,), (1,), seconds)
    product = dispatch(down, up, bias, 3, dispatcher=Dispatcher([table], cache=False))
    assert product.form(3) == "fused"
    assert_close("y", product(x), lowrank_linear(x, down, up, bias, 3))
    product(x.requires_grad_()).sum().backward()
    assert asked == ["triton", "torch"]
    assert product.copied_bytes == 0


@pytest.mark.parametrize("form", FORMS)
def test_leading_axes_and_many_shapes_are_rows(form):
    _, down, up, bias = factors()
    product = dispatch(down, up, bias, 3, dispatcher=planted(down, up, form))
    for lead in ((), (1,), (2, 3), (0,), (2, 0, 3)):
        x = torch.randn(*lead, 6)
        assert_close("y", product(x), lowrank_linear(x, down, up, bias, 3))
    for rows in range(1100):  # more shapes than are remembered
        assert product(torch.randn(rows, 6)).shape == (rows, 4)


@pytest.mark.parametrize("form", FORMS)
def test_a_copy_answers_to_its_own_factors(form):
    x, down, up, bias = factors()
    product = dispatch(down, up, bias, 3, dispatcher=planted(down, up, form))
    want = product(x)
    twins = [copy.deepcopy(product), pickle.loads(pickle.dumps(product))]
    with torch.no_grad():
        for t in (down, up, bias):
            t.zero_()
    for twin in twins:
        assert_close("y", twin(x), want)
    assert not product(x).any()


@pytest.mark.parametrize("form", FORMS)
def test_frozen_factors_get_no_gradients_in_any_form(form):
    x, *rest = factors()
    leaves = [t.requires_grad_() for t in rest]
    product = dispatch(*leaves, 3, frozen=True, dispatcher=planted(*leaves[:2], form))
    assert not product(x).requires_grad
    want = product(x)
    with torch.no_grad():
        leaves[2].add_(0)
        leaves[0].add_(0)  # a promise broken in word only
    x = x.clone().requires_grad_()
    product(x).sum().backward()
    assert torch.equal(product(x), want)
    assert x.grad is not None
    assert [t.grad for t in leaves] == [None] * 3


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_one_graph_serves_every_batch(form, frozen):
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            _, down, up, bias = factors()
            dispatcher = planted(down, up, form)
            self.product = dispatch(down, up, bias, 3, frozen=frozen, dispatcher=dispatcher)

        def forward(self, x):
            return self.product(x).relu()

    torch._dynamo.reset()
    layer, counter = Layer(), CompileCounter()
    compiled = torch.compile(layer, backend=counter, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for rows in (7, 9, 3):
            x = torch.randn(rows, 6)
            assert_close("y", compiled(x), layer(x))
    assert counter.frame_count == 1


@pytest.mark.parametrize("strict", [False, True])
def test_a_program_runs_the_factors_for_every_batch(strict):
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            _, self.down, self.up, self.bias = (nn.Parameter(t) for t in factors())

        def forward(self, x):
            dispatcher = Dispatcher(cache=False)
            return dispatch(self.down, self.up, self.bias, 3, dispatcher=dispatcher)(x)

    layer, rows = Layer(), {0: torch.export.Dim.DYNAMIC}
    x = torch.randn(5, 6)
    program = torch.export.export(layer, (x,), dynamic_shapes={"x": rows}, strict=strict).module()
    for n in (2, 9):
        x = torch.randn(n, 6)
        assert_close("y", program(x), layer(x))


def test_autocast_and_vmap_pass_through():
    _, down, up, bias = factors()
    x = torch.randn(2, 3, 6)
    for form in FORMS:
        product = dispatch(down, up, bias, 3, dispatcher=planted(down, up, form))
        assert_close("y", torch.vmap(product)(x), product(x))
        with torch.autocast("cpu", torch.bfloat16):
            assert product(x).dtype == product(x[0]).dtype == torch.bfloat16


def test_inference_tensors_are_taken():
    with torch.inference_mode():
        x, down, up, bias = factors()
        for form in FORMS:
            product = dispatch(down, up, bias, 3, dispatcher=planted(down, up, form))
            assert_close("y", product(x), lowrank_linear(x, down, up, bias, 3))


def test_says_what_it_is():
    _, down, up, bias = factors()
    product = dispatch(down, up, bias, torch.tensor(3), dispatcher=Dispatcher(cache=False))
    assert isinstance(product, Dispatched)
    assert repr(product) == "Dispatched(rank=3 of 5, in_features=6, out_features=4)"


def test_names_what_is_wrong():
    x, down, up, bias = factors()
    with pytest.raises(ValueError, match=r"rank must be in 0\.\.5, got 6"):
        dispatch(down, up, bias, 6)
    with pytest.raises(ValueError, match=r"bias must be \[4\], got \[5\]"):
        dispatch(down, up, torch.ones(5))
    with pytest.raises(ValueError, match=r"weight must be \[4, 6\], got \[6, 4\]"):
        dispatch(down, up, weight=torch.ones(6, 4))
    with pytest.raises(TypeError, match="weight must have the dtype and device of down"):
        dispatch(down, up, weight=torch.ones(4, 6).double())
    with pytest.raises(TypeError, match="weight must be a tensor, got list"):
        dispatch(down, up, weight=[1.0])
    with pytest.raises(ValueError, match="batch must be at least 0, got -1"):
        dispatch(down, up, batch=-1)
    with pytest.raises(TypeError, match=r"batch must be an int or several, got float 3\.0"):
        dispatch(down, up, batch=3.0)
    with pytest.raises(TypeError, match="batch must be an int, got str '3'"):
        dispatch(down, up, batch=["3"])
    with pytest.raises(TypeError, match="dispatcher must be a Dispatcher or None, got int"):
        dispatch(down, up, dispatcher=0)
    with pytest.raises(TypeError, match="frozen must be True or False, got int 1"):
        dispatch(down, up, frozen=1)
    with pytest.raises(TypeError, match="copies must be True or False, got str 'no'"):
        dispatch(down, up, copies="no")
    product = dispatch(down, up, bias, 3, dispatcher=Dispatcher(cache=False))
    product(x)
    for wrong in (torch.ones(2, 7), torch.ones(3, 7), torch.ones(7), torch.ones(3, 1, 7)):
        with pytest.raises(ValueError, match=r"x must be \[\.\.\., in\] with in = 6"):
            product(wrong)
    with pytest.raises(TypeError, match="down must have the dtype of x"):
        product(x.double())
    with pytest.raises(TypeError, match="x must be a tensor, got list"):
        product([1.0])
    for asked in (product.form, product.explain):
        with pytest.raises(TypeError, match=r"batch must be an int, got a tensor \[3, 6\]"):
            asked(x)
