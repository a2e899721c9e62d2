import pytest
import torch

from lowrank_kernels import (
    Calibration,
    Dispatcher,
    calibrate,
    dispatch_per_sample,
    lowrank_linear_per_sample,
)
from lowrank_kernels._calibration import Key
from lowrank_kernels.testing import PER_SAMPLE_LAWS, assert_close

FORMS = ("staircase", "masked")
COUNTED = Dispatcher(cache=False)


def dispatched(form):
    def product(x, down, up, bias=None, ranks=None, *, inner_bias=None):
        if ranks is None:
            ranks = torch.full(x.shape[:-1], down.shape[0])
        options = {"inner_bias": inner_bias, "form": form, "dispatcher": COUNTED}
        return dispatch_per_sample(down, up, bias, **options)(x, ranks)

    return product


def named(form):
    def product(*args, **options):
        return lowrank_linear_per_sample(*args, **options, implementation=form)

    return product


@pytest.mark.parametrize("law", PER_SAMPLE_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("product", [*map(dispatched, (*FORMS, None)), named("staircase")])
def test_obeys(product, dtype, law):
    law(product, torch.empty(0, dtype=dtype))


def test_a_mask_asked_for_lets_nan_through_and_a_chosen_one_does_not():
    (law,) = (law for law in PER_SAMPLE_LAWS if law.__name__.endswith("see_each_other"))
    law(dispatched("masked"), torch.empty(0))
    with pytest.raises(AssertionError):
        law(named("masked"), torch.empty(0))


def factors(R=8, n=6, m=5):
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=draw) for s in ((9, n), (R, n), (m, R), (m,))]


def measured(down, up, staircase, masked):
    key = Key.of(down, up)._replace(samples=True)
    seconds = {"staircase": (staircase,), "masked": (masked,)}
    return Dispatcher([Calibration(key, (8,), (2, 6), seconds)], cache=False)


def test_measured_times_decide_by_the_mean_and_the_largest_rank():
    _, down, up, bias = factors()
    dispatcher = measured(down, up, (1.0, 5.0), (1.5, 3.5))
    product = dispatch_per_sample(down, up, bias, dispatcher=dispatcher)
    even, few = torch.tensor([1, 2, 3, 4, 5, 6, 3, 4]), torch.tensor([6, 0, 0, 0, 0, 0, 1, 1])
    why = product.explain(even)
    assert why.costs == {"masked": 3.5, "staircase": 6.0}  # 2 mean is 7, behind the last rank
    assert why.chosen == product.form(even) == "masked"
    assert product.explain(few).costs == {"staircase": 1.0, "masked": 3.5}
    assert product.form(few) == "staircase"
    assert product.explain(few).measured_at == 8
    assert product.explain(few, rows=4).measured_at is None  # 32 rows: too far from 8
    assert "ranks up to 6 of 8, 8 rows" in str(product.explain(few))
    assert "bands of ranks against one mask" in str(product.explain(few))


def test_without_measurements_the_area_of_the_bands_is_counted():
    down, up = torch.empty(512, 1024), torch.empty(1024, 512)
    product = dispatch_per_sample(down, up, dispatcher=COUNTED)
    few = torch.tensor([16] * 90 + [512] * 10)
    area = 100 * 16 + 10 * 496
    assert product.explain(few).costs["masked"] == 512 * 2048
    assert product.explain(few).costs["staircase"] == round((area * 2048 + 1_000_000) / 100)
    assert product.form(few) == "staircase"
    assert product.form(torch.tensor([512, 512])) == "staircase"  # one band, as the mask
    assert product.form(torch.tensor([], dtype=torch.int64)) == "staircase"


def test_a_form_asked_for_by_name_is_the_one_that_runs():
    x, down, up, bias = factors()
    ranks = torch.arange(9)
    want = lowrank_linear_per_sample(x, down, up, bias, ranks)
    for form in FORMS:
        product = dispatch_per_sample(down, up, bias, form=form, dispatcher=COUNTED)
        assert product.form(ranks) == form
        assert_close("y", product(x, ranks), want)
        assert_close("y", named(form)(x, down, up, bias, ranks), want)
    assert repr(product) == "DispatchedPerSample(max_rank=8, in_features=6, out_features=5)"


def test_a_calibration_has_both_forms_and_serves_no_other_product():
    table = calibrate(24, 16, 12, per_sample=True, seconds=0.02, save=False)
    assert sorted(table.seconds) == ["masked", "staircase"]
    assert Calibration.from_json(table.key, table.to_json()) == table
    _, down, up, _ = factors(12, 24, 16)
    dispatcher = Dispatcher([table], cache=False)
    assert dispatcher.calibration(down, up) is None
    product = dispatch_per_sample(down, up, dispatcher=dispatcher)
    assert product.explain(torch.tensor([3])).measured_at == 1
    asks = Dispatcher(calibrate=True, cache=False)
    asks._given[table.key] = table
    assert (
        dispatch_per_sample(down, up, dispatcher=asks).explain(torch.tensor([3])).measured_at == 1
    )
    with pytest.raises(ValueError, match="seconds of 24-16-12-float32-cpu-samples must be of"):
        Calibration.from_json(table.key, {**table.to_json(), "seconds": {"masked": [[1.0]]}})


@pytest.mark.parametrize("form", FORMS)
def test_graphs_and_vmap_pass_through(form):
    x, down, up, bias = factors()
    product = dispatch_per_sample(down, up, bias, form=form, dispatcher=COUNTED)
    ranks = torch.arange(9)
    torch._dynamo.reset()
    compiled = torch.compile(product, backend="eager", fullgraph=True)
    assert_close("y", compiled(x, ranks), product(x, ranks))
    assert_close("y", torch.vmap(product)(x[None], ranks[None])[0], product(x, ranks))


def test_names_what_is_wrong():
    x, down, up, bias = factors()
    product = dispatch_per_sample(down, up, bias, dispatcher=COUNTED)
    with pytest.raises(ValueError, match="form must be 'staircase', 'masked' or None, got 'dense'"):
        dispatch_per_sample(down, up, form="dense")
    with pytest.raises(ValueError, match=r"bias must be \[5\], got \[4\]"):
        dispatch_per_sample(down, up, torch.ones(4))
    with pytest.raises(TypeError, match="ranks must be an integer tensor or None, got list"):
        product(x, [1] * 9)
    with pytest.raises(TypeError, match="x must be a tensor, got list"):
        product([1.0], torch.arange(9))
    with pytest.raises(TypeError, match="dispatcher must be a Dispatcher or None, got dict"):
        dispatch_per_sample(down, up, dispatcher={})
    for asked in (product.form, product.explain):
        with pytest.raises(TypeError, match="ranks must be an integer tensor, got int"):
            asked(3)
        with pytest.raises(TypeError, match=r"ranks must be an integer tensor, got torch\.float32"):
            asked(x)
        with pytest.raises(TypeError, match="rows must be an int, got str '1'"):
            asked(torch.arange(9), rows="1")
    for form in (*FORMS, None):
        refusing = dispatch_per_sample(down, up, form=form, dispatcher=COUNTED)
        with pytest.raises(ValueError, match=r"ranks must be in 0\.\.8, got 9"):
            refusing(x, torch.arange(9) + 1)
    with pytest.raises(ValueError, match="implementation must be 'torch', 'staircase', 'masked'"):
        named("fast")(x, down, up, bias, torch.arange(9))
