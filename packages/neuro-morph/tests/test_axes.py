from hypothesis import given, strategies as st

from neuro_morph._axes import Atom, Const, Product, Sum, product_of, resolve, size_of, sum_of
from neuro_morph._entries import entries_of
from neuro_morph._unify import split_product, split_sum, unify


def test_an_atom_that_is_viewed_as_heads_is_a_product() -> None:
    width = Atom(12, "q")
    heads, size = split_product(width, 3) or (None, None)
    assert heads is not None
    assert size is not None
    assert (size_of(heads), size_of(size)) == (3, 4)
    assert resolve(width) == Product((heads, size))


def test_a_concatenation_meets_an_atom_segment_by_segment() -> None:
    left, right, whole = Atom(2, "a"), Atom(3, "b"), Atom(5, "c")
    unify(whole, sum_of([left, right]), "")
    assert resolve(whole) == Sum((left, right))


def test_equal_segments_viewed_as_rows_become_one() -> None:
    left, right = Atom(4, "a"), Atom(4, "b")
    rows = split_product(sum_of([left, right]), 2)
    assert rows is not None
    assert resolve(left) is resolve(right)


def test_what_does_not_grow_fixes_what_it_meets_with_the_reason() -> None:
    atom = Atom(4, "a")
    unify(Const(4), atom, "it meets the batch")
    assert atom.fixed == "it meets the batch"


def test_axes_torn_apart_unevenly_are_fixed_rather_than_guessed() -> None:
    first = product_of([Atom(2, "a"), Atom(6, "b")])
    second = product_of([Atom(3, "c"), Atom(4, "d")])
    unify(first, second, "torn")
    assert all(each.fixed == "torn" for each in (*first.factors, *second.factors))  # type: ignore[union-attr]


def test_new_units_stand_behind_the_old_ones_in_every_segment_and_beside_every_digit() -> None:
    atom = Atom(2, "a")
    axis = sum_of([product_of([atom, Const(2)]), Const(1), product_of([Const(2), atom])])
    old, unit = entries_of(axis, atom, 3)
    assert old.tolist() == [0, 1, 2, 3, -1, -1, 4, 5, 6, -1, 7, 8, -1]
    assert unit.tolist() == [0, 0, 1, 1, 2, 2, -1, 0, 1, 2, 0, 1, 2]


@st.composite
def axes(draw: st.DrawFn) -> tuple[object, list[Atom]]:
    atoms = [Atom(draw(st.integers(2, 4)), f"a{k}") for k in range(3)]
    leaf = st.sampled_from([*atoms, Const(2), Const(3)])
    tree = st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.lists(inner, min_size=2, max_size=3).map(product_of),
            st.lists(inner, min_size=2, max_size=3).map(sum_of),
        ),
        max_leaves=5,
    )
    return draw(tree), atoms


@given(axes(), st.integers(0, 3))
def test_every_old_entry_stays_once_and_in_order(drawn: tuple[object, list[Atom]], by: int) -> None:
    axis, atoms = drawn
    old, unit = entries_of(axis, atoms[0], atoms[0].size + by)  # type: ignore[arg-type]
    kept = [k for k in old.tolist() if k >= 0]
    assert kept == sorted(kept) == list(range(size_of(axis)))  # type: ignore[arg-type]
    assert all(u >= atoms[0].size for o, u in zip(old, unit, strict=True) if o < 0)


@given(axes(), st.data())
def test_an_axis_cut_in_two_is_the_two_pieces(
    drawn: tuple[object, list[Atom]], data: st.DataObject
) -> None:
    axis, _ = drawn
    size = size_of(axis)  # type: ignore[arg-type]
    at = data.draw(st.integers(0, size))
    pieces = split_sum(axis, at)  # type: ignore[arg-type]
    if pieces is not None:
        assert [size_of(p) for p in pieces] == [at, size - at]
        assert size_of(axis) == size  # type: ignore[arg-type]
