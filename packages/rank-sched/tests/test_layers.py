import numpy as np
import pytest

from rank_sched import allocate, energy_fraction, frontier, uniform

FUNCTIONS = [allocate, uniform, energy_fraction, lambda f, c, b, **kw: frontier(f, c, **kw).at(b)]
GOOD = {"a": [2.0, 1.0], "b.weight": [3.0, 1.0]}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "argument, value, error, message",
    [
        ("loss", [2.0, np.nan], ValueError, r"loss_curves\['b.weight'\] .* finite, got nan .* 1"),
        ("loss", [np.inf, 1.0], ValueError, r"loss_curves\['b.weight'\] .* finite, got inf .* 0"),
        ("cost", [0.0, np.inf], ValueError, r"costs\['b.weight'\] must be finite, got inf"),
        ("cost", [0.0, -1.0], ValueError, r"costs\['b.weight'\] must not be negative, got -1"),
        ("cost", [0.0], ValueError, r"costs\['b.weight'\] must have one value for each of the 2"),
        ("ranks", [1], ValueError, r"ranks\['b.weight'\] must have one value for each of the 2"),
        ("ranks", [0, -4], ValueError, r"ranks\['b.weight'\] must not be negative, got -4"),
        ("ranks", [0, 1.5], TypeError, r"ranks\['b.weight'\] must hold whole numbers"),
        ("loss", ["x", "y"], TypeError, r"loss_curves\['b.weight'\] must hold real numbers"),
        ("loss", [1j, 0], TypeError, r"loss_curves\['b.weight'\] must hold real numbers"),
        ("loss", [[1.0, 2.0]], ValueError, r"loss_curves\['b.weight'\] must be one-dimensional"),
        ("loss", [], ValueError, r"loss_curves\['b.weight'\] .* at least one choice"),
        ("loss", 3.0, ValueError, r"loss_curves\['b.weight'\] must be one-dimensional"),
    ],
)
def test_a_bad_table_is_refused_with_the_name_of_its_layer(
    function, argument, value, error, message
):
    tables = {"loss": dict(GOOD), "cost": {"a": [0, 1], "b.weight": [0, 1]}}
    tables["ranks"] = {"a": [0, 8], "b.weight": [0, 8]}
    tables[argument]["b.weight"] = value
    with pytest.raises(error, match=message):
        function(tables["loss"], tables["cost"], 1.0, ranks=tables["ranks"])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_tables_must_name_the_same_layers(function):
    with pytest.raises(ValueError, match=r"costs must name the layers .* differs in 'b.weight'"):
        function(GOOD, {"a": [0, 1]}, 1.0)
    with pytest.raises(ValueError, match=r"ranks must name the layers .* differs in 'c'"):
        function({"a": [1]}, {"a": [0]}, 1.0, ranks={"a": [0], "c": [1]})
    with pytest.raises(ValueError, match="at least one layer, got none"):
        function({}, {}, 1.0)
    with pytest.raises(TypeError, match="costs must map names to arrays, got list"):
        function({"a": [1]}, [0], 1.0)


def test_sums_beyond_the_largest_float_are_refused():
    with pytest.raises(ValueError, match="loss_curves must add up to a finite number"):
        frontier({"a": [1e308, 0], "b": [1e308, 0]}, {"a": [0, 1], "b": [0, 1]})
    with pytest.raises(ValueError, match="costs must add up to a finite number"):
        frontier({"a": [1, 0], "b": [1, 0]}, {"a": [0, 1e308], "b": [0, 1e308]})


@pytest.mark.parametrize("kind", ["float32", "float16", "int64", "uint8", "bool"])
def test_any_real_array_is_read_and_left_as_it_was(kind):
    curve = np.array([1, 1, 0], dtype=kind)
    curve.setflags(write=False)
    assert frontier({"a": curve}, {"a": [0, 1, 2]})[1].ranks == {"a": 2}


def test_tables_may_change_afterwards():
    loss_curves, costs = {"a": np.array([2.0, 1.0])}, {"a": np.array([0.0, 1.0])}
    points = frontier(loss_curves, costs)
    loss_curves["a"][:], costs["a"][:] = -5, 50
    assert points.at(1).loss == 1.0
