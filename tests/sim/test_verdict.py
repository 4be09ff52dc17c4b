"""Which sends may stay without an answer at the end of a run, and which may not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import pytest

from evertalk.core.model import Stream
from evertalk.core.vector import Hole, Vector
from evertalk.ports import OriginInfo, StreamState
from evertalk.replicator.region import BoardView
from evertalk.sim.people import Person
from evertalk.sim.verdict import put_off
from evertalk.sim.world import NodeHost

ORIGIN = "seoul-1"
SCOPE, SEND, ME = b"talk", b"send", b"me"
NOW = 100.0


@dataclass
class Asker:
    account: bytes = ME
    open: set[bytes] = field(default_factory=lambda: {SEND})
    unaccepted: dict[bytes, bytes] = field(default_factory=lambda: {SEND: SCOPE})
    not_yet: dict[bytes, float] = field(default_factory=lambda: {SCOPE: NOW - 1})


@dataclass
class Host:
    vector: Vector
    inside: set[bytes] = field(default_factory=set)

    def members(self, scope: bytes) -> set[bytes]:
        return self.inside


@dataclass
class End:
    """A run's end: 2..5 of seoul's log are lost, its origin lives, and one who is no member waits."""

    person: Asker = field(default_factory=Asker)
    hosts: list[Host] = field(default_factory=list)
    views: dict[str, BoardView] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hosts = [Host(Vector({(ORIGIN, 0): 6}, [Hole(ORIGIN, 0, 2, 5)])) for _ in range(2)]
        log, mirror = StreamState(6, 0, 100, 6), StreamState(6, 0, 100, 6, 5)
        for region, stream, level in (("seoul", False, log), ("busan", True, mirror)):
            origins = {ORIGIN: OriginInfo(ORIGIN, "seoul", "open")}
            self.views[region] = BoardView(region, origins, [], {Stream(ORIGIN, 0, stream): level})

    def excused(self) -> set[bytes]:
        return put_off(cast(Person, self.person), cast(list[NodeHost], self.hosts), self.views, NOW)


def test_not_yet_is_an_answer_while_a_hole_stays_open() -> None:
    assert End().excused() == {SEND}


def _filled(end: End) -> None:
    for host in end.hosts:
        host.vector = Vector({(ORIGIN, 0): 6})


def _held_by_a_store(end: End) -> None:
    end.hosts[1].vector = Vector({(ORIGIN, 0): 6}, [Hole(ORIGIN, 0, 2, 4)])


def _held_by_a_stream(end: End) -> None:
    end.views["busan"].streams[Stream(ORIGIN, 0, True)] = StreamState(6, 2, 100, 4)


def _origin_is_closed(end: End) -> None:
    end.views["seoul"].origins[ORIGIN] = OriginInfo(ORIGIN, "seoul", "closed")


def _member(end: End) -> None:
    end.hosts[1].inside.add(ME)


def _accepted(end: End) -> None:
    end.person.unaccepted.clear()


def _told_something_else(end: End) -> None:
    end.person.not_yet = {b"another talk": NOW - 1}


def _told_long_ago(end: End) -> None:
    end.person.not_yet = {SCOPE: NOW - 30}


@pytest.mark.parametrize(
    "otherwise",
    [
        _filled, _held_by_a_store, _held_by_a_stream, _origin_is_closed, _member, _accepted, _told_something_else,
        _told_long_ago,
    ],
)  # fmt: skip
def test_every_other_send_has_to_be_answered(otherwise: Callable[[End], None]) -> None:
    end = End()
    otherwise(end)
    assert end.excused() == set()
