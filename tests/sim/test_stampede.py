"""A crowd comes at once, and who was there already hardly notices: because hellos come in by a door."""

from __future__ import annotations

import statistics

import pytest

from evertalk.chatnode import door
from evertalk.sim.stampede import stampede

_CLIENTS = 240
_DEAR_S = 0.01  # so few clients must weigh as much as thousands do
_DEARER_S = 0.02  # at 0.01 the wait for a hedge, 0.36 s, is about as long as the one for the crowd


def test_a_crowd_is_served_and_nobody_else_waits_for_it() -> None:
    found = stampede(_CLIENTS, hello_s=_DEAR_S)
    assert not found.failures
    assert found.heard_s > 0
    assert found.gap_s < 1.0


def test_without_a_door_everybody_waits_for_the_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    with_door = _usual_gap_s()
    monkeypatch.setattr(door, "AT_ONCE", 1_000_000)
    monkeypatch.setattr(door, "PER_S", 1_000_000_000)
    assert _usual_gap_s() > 1.3 * with_door


def _usual_gap_s() -> float:
    """The longest wait, in the middle one of three crowds: where a crowd goes first is a matter of luck."""
    return statistics.median(stampede(_CLIENTS, seed, hello_s=_DEARER_S).gap_s for seed in (1, 2, 3))


def test_who_is_sent_away_comes_in_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "WAITING", 8)
    found = stampede(_CLIENTS, hello_s=_DEAR_S)
    assert found.refused > 0
    assert not found.failures
    assert found.heard_s > 0
