"""The session token and the dedupe window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertalk.core import limits
from evertalk.core.errors import Code, Refused
from evertalk.core.token import (
    DELIVERED_CAP,
    ORIGINS_CAP,
    Delivered,
    EventKey,
    Seen,
    Token,
    needs_of,
    newest_origins,
)
from evertalk.core.vector import Hole, Vector

SESSION = b"12345678"
HERE = ("here-1", 0)
ids = st.binary(min_size=limits.ID_BYTES, max_size=limits.ID_BYTES)
keys = st.tuples(st.sampled_from(["here-01", "there-02", "한강-03"]), st.integers(0, 7))
vectors = st.builds(
    Vector,
    st.dictionaries(keys, st.integers(1, 1 << 50)),
    st.lists(st.builds(lambda k, n: Hole(k[0], k[1], n, n + 3), keys, st.integers(1, 99)), max_size=3),
)


def key(n: int) -> EventKey:
    return (b"s" * 16, n.to_bytes(16, "big"))


@given(
    st.none() | vectors,
    vectors,
    st.integers(0, 1 << 63),
    st.lists(st.tuples(st.tuples(ids, ids), keys, st.integers(1, 1 << 40)), max_size=20),
)
def test_a_token_comes_back_whole(
    have: Vector | None, need: Vector, hlc: int, taken: list[tuple[EventKey, tuple[str, int], int]]
) -> None:
    token = Token(SESSION, have, need, hlc)
    for event, where, position in taken:
        token.delivered.add(event, where, position)
    again = Token.from_bytes(token.to_bytes())
    assert (again.session, again.have, again.need, again.hlc) == (SESSION, have, need, hlc)
    assert again.delivered.items() == token.delivered.items()


@pytest.mark.parametrize(
    "raw",
    [b"", b"{}", b"nonsense", b'{"v":9}', b"[]", Token(b"short").to_bytes(), Token(SESSION).to_bytes()[:-3]],
)
def test_what_is_no_token_is_refused_by_name(raw: bytes) -> None:
    with pytest.raises(Refused) as refused:
        Token.from_bytes(raw)
    assert refused.value.code == Code.MALFORMED


def test_a_token_names_the_newest_origins_only() -> None:
    need = Vector({(f"r{n % 3}-{n:04d}", 0): n + 1 for n in range(ORIGINS_CAP + 50)})
    again = Token.from_bytes(Token(SESSION, need=need).to_bytes())
    assert len(again.need.origins()) == ORIGINS_CAP
    assert "r0-0000" not in again.need.origins()
    assert again.need[(f"r{(ORIGINS_CAP + 49) % 3}-{ORIGINS_CAP + 49:04d}", 0)] == ORIGINS_CAP + 50


def test_an_event_needs_what_was_seen_of_its_own_shard() -> None:
    need = Vector({("a-1", 0): 5, ("b-2", 0): 6, ("a-1", 1): 7})
    assert needs_of(need, 0) == (("a-1", 5), ("b-2", 6))
    many = Vector({(f"a-{n:03d}", 0): 1 for n in range(limits.MAX_NEEDS + 10)})
    assert len(needs_of(many, 0)) == limits.MAX_NEEDS
    assert newest_origins(many, 1).origins() == {f"a-{limits.MAX_NEEDS + 9:03d}"}


def test_what_was_seen_lately_is_known() -> None:
    seen = Seen(cap=100)
    for n in range(1000):
        assert seen.add(key(n))
        assert not seen.add(key(n))
        assert not seen.add(key(max(0, n - 24)))
        assert len(seen) <= 100
    assert key(0) not in seen


def test_delivered_events_are_forgotten_once_they_cannot_come_again() -> None:
    delivered = Delivered()
    for n in range(1, 4):
        delivered.add(key(n), HERE, n)
    delivered.prune(Vector({HERE: 3}), have := Vector({HERE: 1}), have)
    assert delivered.events() == [key(2), key(3)]
    delivered.prune(Vector({HERE: 2}), have := Vector({HERE: 3}), have)
    assert delivered.events() == [key(3)]
    delivered.prune(Vector({HERE: 3}, [Hole("here-1", 0, 3, 3)]), have := Vector({HERE: 3}), have)
    assert delivered.events() == [key(3)]
    delivered.prune(Vector({HERE: 3}), have := Vector({HERE: 3}), have)
    assert len(delivered) == 0


def test_delivered_events_are_bounded() -> None:
    delivered = Delivered()
    delivered.add(key(0), ("there-1", 0), 1)
    for n in range(1, DELIVERED_CAP + 100):
        delivered.add(key(n), HERE, n)
    assert len(delivered) == DELIVERED_CAP
    assert key(DELIVERED_CAP + 99) in delivered.events()
    assert key(0) in delivered.events()


def test_what_no_marker_of_its_shard_has_followed_is_kept() -> None:
    """A page of a joining lies below `have`, and comes again until the joining is marked."""
    delivered = Delivered()
    delivered.add((b"anna", b"1"), HERE, 1)
    have = Vector({HERE: 3})
    for marker in (Vector(), Vector({(HERE[0], HERE[1] + 1): 1})):
        delivered.prune(have, have, marker)
        assert len(delivered) == 1
    delivered.prune(have, have, have)
    assert len(delivered) == 0
