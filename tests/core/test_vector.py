"""Vectors are sets of positions: what two stores hold together, and who has something that another lacks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evertalk.core.vector import Hole, Vector

KEY = ("here-1", 0)
_MOST = 12
held = st.sets(st.integers(1, _MOST))


def vector(positions: set[int]) -> Vector:
    """One that holds just these, each missing one a hole of its own."""
    last = max(positions, default=0)
    return Vector({KEY: last}, [Hole(*KEY, n, n) for n in range(1, last) if n not in positions])


def passed(first: int, last: int) -> Vector:
    """One that passed first..last in one go and holds the rest up to `last`."""
    return Vector({KEY: last}, [Hole(*KEY, first, last)])


def positions(of: Vector) -> set[int]:
    return {n for n in range(1, _MOST + 1) if of.covers_range(*KEY, n, n)}


@given(held, held)
def test_two_vectors_together_hold_what_either_holds(mine: set[int], theirs: set[int]) -> None:
    one, other = vector(mine), vector(theirs)
    one.absorb(other)
    assert positions(one) == mine | theirs
    assert one[KEY] == max(mine | theirs, default=0)


@given(held, st.integers(1, _MOST), st.integers(1, _MOST))
def test_a_hole_is_filled_as_far_as_the_other_holds_it(theirs: set[int], first: int, last: int) -> None:
    one, other = passed(min(first, last), max(first, last)), vector(theirs)
    before = positions(one)
    closed = one.absorb(other)
    assert positions(one) == before | theirs
    assert {n for part in closed for n in range(part.first, part.last + 1)} == (positions(one) - before) & set(
        range(min(first, last), max(first, last) + 1)
    )


@given(held, held, st.integers(1, _MOST), st.integers(1, _MOST))
def test_who_holds_what_another_lacks_is_ahead(mine: set[int], theirs: set[int], first: int, last: int) -> None:
    for one in (vector(mine), passed(min(first, last), max(first, last))):
        other = vector(theirs)
        assert bool(other.ahead_of(one)) == bool(theirs - positions(one))
        one.absorb(other)
        assert not other.ahead_of(one), "else it would be asked again and again"


def test_a_part_in_the_middle_leaves_two_holes() -> None:
    one = passed(1, 9)
    assert one.absorb(Vector({KEY: 6}, [Hole(*KEY, 1, 3)])) == [Hole(*KEY, 4, 6)]
    assert one.holes == {Hole(*KEY, 1, 3), Hole(*KEY, 7, 9)}


@given(held, st.integers(0, _MOST))
def test_what_lies_beyond_comes_with_its_holes_and_of_these_shards_only(mine: set[int], marked: int) -> None:
    one, marks = vector(mine), Vector({KEY: marked})
    one.advance("here-1", 1, 5)
    found = one.beyond(marks, {KEY[1]})
    assert found == (vector(mine) if one[KEY] > marked else Vector())
    assert one.beyond(marks, set()) == Vector()
