"""The nemesis may break a lot at once, but never takes both regions."""

from __future__ import annotations

from evertalk.drill.scripts.nemesis import Claims


def claims() -> Claims:
    return Claims({"seoul": ("seoul-redis", ["seoul-1", "seoul-2"]), "busan": ("busan-redis", ["busan-1", "busan-2"])})


def test_nothing_is_broken_twice_at_once() -> None:
    held = claims()
    with held.hold(frozenset({"seoul-1"})):
        assert not held.may(frozenset({"seoul-1", "seoul-2"}))
        assert held.may(frozenset({"seoul-2"}))
    assert held.may(frozenset({"seoul-1"}))


def test_one_region_at_most_cannot_serve() -> None:
    held = claims()
    with held.hold(frozenset({"seoul-redis"})):
        assert held.may(frozenset({"seoul-1", "seoul-2"}))
        assert held.may(frozenset({"busan-1"}))
        assert not held.may(frozenset({"busan-redis"}))
        with held.hold(frozenset({"busan-1"})):
            assert not held.may(frozenset({"busan-2"}))
        assert held.may(frozenset({"busan-2"}))


def test_what_serves_nobody_may_break_besides() -> None:
    held = claims()
    with held.hold(frozenset({"seoul-1", "seoul-2"})):
        assert held.may(frozenset({"busan-replicator"}))
        assert held.may(frozenset({"wan seoul", "wan busan"}))
        assert held.may(frozenset({"clock"}))
