import pytest
import torch
from hypothesis import given, strategies as st

from lowrank_kernels import Calibration, Dispatcher, round_rank
from lowrank_kernels._calibration import Key

sizes = st.integers(1, 300)


def pair(n, m, R):
    return torch.empty(R, n), torch.empty(m, R)


def table(n, m, R, *, ranks, batches=(1, 8), **seconds):
    key = Key.of(*pair(n, m, R))
    return Calibration(key, batches, ranks, seconds)


@given(st.integers(0, 5000), st.integers(1, 64))
def test_a_rounded_rank_is_the_next_multiple(rank, multiple):
    rounded = round_rank(rank, multiple)
    assert rounded % multiple == 0
    assert rank <= rounded < rank + multiple


@given(st.integers(0, 100), st.integers(0, 100))
def test_a_rounded_rank_stays_within_the_factors(a, b):
    rank, R = sorted((a, b))
    assert rank <= round_rank(rank, max_rank=R) <= R


def test_rounding_names_what_is_wrong():
    with pytest.raises(ValueError, match="rank must be at least 0, got -1"):
        round_rank(-1)
    with pytest.raises(ValueError, match="multiple must be at least 1, got 0"):
        round_rank(3, 0)
    with pytest.raises(ValueError, match=r"rank must be in 0\.\.8, got 9"):
        round_rank(9, max_rank=8)
    with pytest.raises(TypeError, match="rank must be an int, got float 2.0"):
        round_rank(2.0)
    with pytest.raises(TypeError, match="rank must be an int, got bool True"):
        round_rank(True)


@given(sizes, sizes, st.integers(1, 64), st.data())
def test_without_measurements_the_form_of_fewest_multiplications_wins(n, m, batch, data):
    R = min(n, m)
    r = data.draw(st.integers(0, R))
    down, up = pair(n, m, R)
    dispatcher = Dispatcher(cache=False)
    chosen = dispatcher.choose(down, up, r, batch=batch)
    costs = {"dense": n * m, "factored": r * (n + m), "packed": r * (n + m)}
    assert costs[chosen] == min(costs.values())
    why = dispatcher.explain(down, up, r, batch=batch)
    assert why.chosen == chosen == next(iter(why.costs))
    assert (chosen == "dense") == (why.break_even is not None and r >= why.break_even)


def test_times_are_interpolated_between_ranks_and_stand_for_a_bucket_of_batches():
    measured = table(
        64, 64, 64, ranks=(8, 40),
        dense=((10.0,), (100.0,)),
        factored=((4.0, 20.0), (8.0, 80.0)),
        packed=((2.0, 18.0), (16.0, 90.0)),
    )  # fmt: skip
    assert measured.predict(24, 1) == {"dense": 10.0, "factored": 12.0, "packed": 10.0}
    assert measured.predict(40, 7) == measured.predict(40, 1)
    assert measured.predict(24, 100)["factored"] == 44.0
    assert measured.predict(56, 1)["packed"] == 26.0  # the outer slope goes on
    assert measured.predict(0, 1)["packed"] == 1.0  # but not below what time can be
    dispatcher = Dispatcher([measured], cache=False)
    down, up = pair(64, 64, 64)
    assert dispatcher.choose(down, up, 8, batch=1) == "packed"
    assert dispatcher.choose(down, up, 8, batch=8) == "factored"
    assert dispatcher.choose(down, up, 40, batch=1) == "dense"
    assert dispatcher.choose(down, up, 40, batch=31) == "factored"
    assert dispatcher.choose(down, up, 40, batch=32) == "dense"  # too far from 8: counted
    assert dispatcher.explain(down, up, 40, batch=32).measured_at is None


def test_the_break_even_is_the_first_rank_at_which_dense_is_chosen():
    measured = table(
        64, 64, 64, ranks=(8, 40),
        dense=((10.0,), (1e9,)),
        factored=((4.0, 20.0), (8.0, 80.0)),
        packed=((5.0, 21.0), (16.0, 90.0)),
    )  # fmt: skip
    at = measured.break_even(1)
    down, up = pair(64, 64, 64)
    forms = [Dispatcher([measured], cache=False).choose(down, up, r, batch=1) for r in range(65)]
    assert forms.index("dense") == at
    assert set(forms[at:]) == {"dense"}
    assert measured.break_even(8) is None


def test_a_packed_copy_has_to_be_worth_it():
    level = table(
        8, 8, 8, ranks=(4,), batches=(1,),
        dense=((1.2,),), factored=((1.0,),), packed=((0.995,),),
    )  # fmt: skip
    assert level.order(4, 1) == ("factored", "packed", "dense")


@pytest.mark.parametrize(
    "rank, factored, chosen",
    [(3, 0.97, "dense"), (3, 0.95, "factored"), (4, 0.9, "dense"), (4, 0.87, "factored")],
)
def test_factors_have_to_be_faster_than_dense_by_more_than_times_scatter(rank, factored, chosen):
    level = table(
        8, 8, 8, ranks=(4,), batches=(1,),
        dense=((1.0,),), factored=((factored,),), packed=((1.0,),),
    )  # fmt: skip
    assert level.order(rank, 1)[0] == chosen


def test_an_explanation_names_times_and_reason():
    measured = table(
        64, 64, 64, ranks=(8, 40), batches=(8,),
        dense=((1e-5,),), factored=((4e-6, 2e-5),), packed=((5e-6, 2.1e-5),),
    )  # fmt: skip
    why = Dispatcher([measured], cache=False).explain(*pair(64, 64, 64), 8, batch=12)
    assert why.measured_at == 8
    assert why.chosen == "factored"
    lines = str(why).splitlines()
    assert lines[0] == ("64 -> 64 features, rank 8 of 64, 12 rows, torch.float32 on cpu: factored")
    assert lines[1] == f"measured at 8 rows; dense from rank {measured.break_even(8)} on"
    assert lines[2].split() == ["factored", "4.0", "µs", "0.40", "of", "dense"]
    plain = str(Dispatcher(cache=False).explain(*pair(64, 64, 8), 8, batch=12))
    assert "counted, as nothing is measured near it; dense at no rank" in plain


def test_a_dispatcher_names_what_is_wrong():
    dispatcher = Dispatcher(cache=False)
    with pytest.raises(ValueError, match=r"rank must be in 0\.\.8, got 9"):
        dispatcher.choose(*pair(16, 16, 8), 9, batch=1)
    with pytest.raises(ValueError, match="batch must be at least 0, got -1"):
        dispatcher.explain(*pair(16, 16, 8), 8, batch=-1)
    with pytest.raises(ValueError, match=r"down must be \[R, in\], got \[8, 4, 3, 3\]"):
        dispatcher.explain(torch.ones(8, 4, 3, 3), torch.ones(6, 8), batch=1)
    with pytest.raises(TypeError, match="down must be a tensor, got int"):
        dispatcher.choose(16, 16, batch=1)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"calibrations": table(4, 4, 2, ranks=(1,))}, r"calibrations must be several, such as \["),
        ({"calibrations": 1}, r"calibrations must be several, such as \[table\], got int"),
        ({"calibrations": [1]}, "calibrations must be Calibrations, got int"),
        ({"calibrate": 1}, "calibrate must be True or False, got int 1"),
        ({"cache": "x"}, "cache must be True or False, got str 'x'"),
    ],
)
def test_a_dispatcher_made_of_what_is_wrong_names_it(given, message):
    with pytest.raises(TypeError, match=message):
        Dispatcher(**given)
