"""How long a client of the load goes without an acknowledged send."""

from __future__ import annotations

import pytest

from evertalk.client import Notice, What
from evertalk.drill.load import LoadFailed, Patience, Plan

A, B = b"a", b"b"


def told(*steps: tuple[float, What, bytes]) -> Patience:
    patience = Patience()
    for at_s, what, id_ in steps:
        patience.note(Notice(at_s, what, id_))
    return patience


def test_a_gap_is_from_a_send_to_the_next_acknowledgement_of_any() -> None:
    patience = told((1, What.INVOKED, A), (2, What.INVOKED, B), (4, What.ACCEPTED, B), (5, What.ACCEPTED, A))
    assert patience.take_s(9) == 3
    assert patience.acknowledged == 2
    assert not patience.waiting


def test_silence_with_nothing_to_send_is_no_gap() -> None:
    patience = told((1, What.INVOKED, A), (2, What.ACCEPTED, A), (50, What.INVOKED, B), (51, What.ACCEPTED, B))
    assert patience.worst_s == 1


def test_a_gap_that_goes_on_is_in_every_window_and_grows() -> None:
    patience = told((1, What.INVOKED, A))
    assert patience.take_s(3) == 2
    assert patience.take_s(5) == 4
    patience.note(Notice(6, What.ACCEPTED, A))
    assert patience.take_s(7) == 5
    assert patience.take_s(9) == 0
    assert patience.worst_s == 5


def test_a_refusal_is_no_acknowledgement() -> None:
    patience = told((1, What.INVOKED, A), (2, What.INVOKED, B), (3, What.REFUSED, A), (4, What.UNKNOWN, B))
    assert patience.acknowledged == 0
    assert patience.worst_s == 3


def test_a_send_counts_once_however_often_it_is_acknowledged() -> None:
    patience = told((1, What.INVOKED, A), (2, What.ACCEPTED, A), (3, What.ACCEPTED, A), (9, What.REPLICATED, A))
    assert patience.acknowledged == 1
    assert patience.worst_s == 1


@pytest.mark.parametrize(("users", "rate", "seconds"), [(1, 1, 1), (2, 0, 1), (2, 1, -1)])
def test_a_load_needs_people_and_a_rate(users: int, rate: float, seconds: float) -> None:
    with pytest.raises(LoadFailed, match="at least 2 users"):
        Plan([], users, rate, seconds, 1).check()
