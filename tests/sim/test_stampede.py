"""A crowd comes at once, and who was there already hardly notices: because hellos come in by a door."""

from __future__ import annotations

import pytest

from evertalk.chatnode import door
from evertalk.sim.stampede import stampede

_CLIENTS = 240
_DEAR_S = 0.01  # so few clients must weigh as much as thousands do


def test_a_crowd_is_served_and_nobody_else_waits_for_it() -> None:
    found = stampede(_CLIENTS, hello_s=_DEAR_S)
    assert not found.failures
    assert found.heard_s > 0
    assert found.gap_s < 1.0


def test_without_a_door_everybody_waits_for_the_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    with_door = stampede(_CLIENTS, hello_s=_DEAR_S)
    monkeypatch.setattr(door, "AT_ONCE", 1_000_000)
    monkeypatch.setattr(door, "PER_S", 1_000_000_000)
    without = stampede(_CLIENTS, hello_s=_DEAR_S)
    assert without.gap_s > 1.5 * with_door.gap_s


def test_who_is_sent_away_comes_in_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "WAITING", 8)
    found = stampede(_CLIENTS, hello_s=_DEAR_S)
    assert found.refused > 0
    assert not found.failures
    assert found.heard_s > 0
