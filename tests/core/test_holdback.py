"""Parents first: every entry goes once, in order, behind what it needs, or says that it gave up waiting."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from evertalk.core import limits
from evertalk.core.holdback import HOLD_MAX_S, Holdback
from evertalk.core.model import Entry, Event, Kind, Message, Record
from evertalk.core.vector import Key, Vector

SEOUL, BUSAN = "seoul-01A", "busan-01B"
#: Time moves in steps beyond the limit.
BEYOND_S = limits.NEED_WAIT_S * 1.01
Need = tuple[str, int]
Name = tuple[str, int, int]


def entry(origin: str, position: int, *needs: Need, shard: int = 0) -> Entry:
    """An entry of one message that names what its author had seen."""
    event = Event(b"i" * 16, b"s" * 16, b"a" * 16, b"s" * 8, 1, Kind.MESSAGE, Message("hello"), needs)
    return Entry(origin, shard, position, (Record(event, 1),))


def named(entry: Entry) -> Name:
    return (entry.origin, entry.shard, entry.position)


def nobody(origin: str, shard: int, position: int) -> bool:
    return False


def somebody(origin: str, shard: int, position: int) -> bool:
    return True


@dataclass
class Reader:
    """A node's reader: what it was handed, in order, and what of it had given up."""

    held: Holdback = field(default_factory=Holdback)
    vector: Vector = field(default_factory=Vector)
    now_s: float = 100.0
    got: list[Name] = field(default_factory=list)
    gave_up: set[Name] = field(default_factory=set)

    def reads(self, *entries: Entry) -> Reader:
        for one in entries:
            self.held.offer(one, self.now_s)
        return self

    def takes(self, folded: frozenset[str] = frozenset(), elsewhere=nobody, limit: int = 500) -> list[Name]:  # type: ignore[no-untyped-def]
        """Apply what may go now; returns it."""
        ready, gave_up = self.held.take(self.vector, folded, self.now_s, elsewhere, limit)
        for one in ready:
            self.vector.advance(*named(one))
        self.got += [named(one) for one in ready]
        self.gave_up |= gave_up
        return [named(one) for one in ready]

    def waits(self, seconds: float = BEYOND_S) -> Reader:
        self.now_s += seconds
        return self


# ---------------------------------------------------------------- stories


def test_a_reply_waits_for_what_it_replies_to() -> None:
    reader = Reader().reads(entry(BUSAN, 1, (SEOUL, 1)))
    assert reader.takes() == []
    reader.reads(entry(SEOUL, 1))
    assert reader.takes() == [(SEOUL, 0, 1), (BUSAN, 0, 1)]
    assert not reader.gave_up
    assert len(reader.held) == 0


def test_a_chain_over_two_origins_goes_in_one_take() -> None:
    reader = Reader().reads(
        entry(BUSAN, 1, (SEOUL, 1)), entry(BUSAN, 2, (SEOUL, 2)), entry(SEOUL, 1), entry(SEOUL, 2, (BUSAN, 1))
    )
    assert reader.takes() == [(SEOUL, 0, 1), (BUSAN, 0, 1), (SEOUL, 0, 2), (BUSAN, 0, 2)]


def test_other_shards_and_origins_do_not_wait_with_it() -> None:
    reader = Reader().reads(entry(BUSAN, 1, (SEOUL, 9)), entry(BUSAN, 1, shard=1), entry(SEOUL, 1))
    assert set(reader.takes()) == {(BUSAN, 1, 1), (SEOUL, 0, 1)}
    assert reader.held.queued((BUSAN, 0)) == 1


def test_what_never_comes_is_waited_for_300_ms_and_no_longer() -> None:
    reader = Reader().reads(entry(BUSAN, 1, (SEOUL, 9)))
    assert reader.takes() == []
    due = reader.held.next_due_s(reader.now_s)
    assert due is not None
    assert 0 < due <= limits.NEED_WAIT_S
    assert reader.waits().takes() == [(BUSAN, 0, 1)]
    assert reader.gave_up == {(BUSAN, 0, 1)}
    assert reader.held.next_due_s(reader.now_s) is None


def test_what_a_live_store_holds_is_waited_for_longer_but_not_for_ever() -> None:
    reader = Reader().reads(entry(BUSAN, 1, (SEOUL, 9)))
    assert reader.takes(elsewhere=somebody) == []
    assert reader.waits().takes(elsewhere=somebody) == []
    assert reader.waits(HOLD_MAX_S).takes(elsewhere=somebody) == [(BUSAN, 0, 1)]
    assert reader.gave_up == {(BUSAN, 0, 1)}


def test_a_holder_that_falls_silent_ends_the_wait() -> None:
    reader = Reader().reads(entry(BUSAN, 1, (SEOUL, 9)))
    assert reader.takes(elsewhere=somebody) == []
    assert reader.waits().takes(elsewhere=somebody) == []
    assert reader.takes(elsewhere=nobody) == [(BUSAN, 0, 1)]


def test_a_folded_origin_holds_nobody_up() -> None:
    reader = Reader().reads(entry(BUSAN, 1, (SEOUL, 9)))
    assert reader.takes(folded=frozenset({SEOUL})) == [(BUSAN, 0, 1)]
    assert not reader.gave_up


def test_what_an_import_brought_is_not_handed_out_again() -> None:
    reader = Reader().reads(entry(SEOUL, 1), entry(SEOUL, 2), entry(SEOUL, 3))
    reader.vector.advance(SEOUL, 0, 2)
    assert reader.takes() == [(SEOUL, 0, 3)]


def test_a_need_of_what_stands_before_it_in_its_own_log_is_met() -> None:
    assert Reader().reads(entry(SEOUL, 1), entry(SEOUL, 2, (SEOUL, 1))).takes() == [(SEOUL, 0, 1), (SEOUL, 0, 2)]


def test_a_need_of_what_stands_behind_it_in_its_own_log_holds_nobody_up() -> None:
    """It cannot come first however long one waits; to wait is to let any client slow a whole shard down."""
    assert Reader().reads(entry(SEOUL, 1, (SEOUL, 9))).takes() == [(SEOUL, 0, 1)]


def test_entries_that_lack_the_same_parent_wait_for_it_together() -> None:
    """300 ms for the parent, not 300 ms for each: else a client that invents needs stops a shard for all."""
    reader = Reader().reads(*(entry(BUSAN, n, (SEOUL, 9)) for n in range(1, 6)))
    assert reader.takes() == []
    assert reader.waits().takes() == [(BUSAN, 0, n) for n in range(1, 6)]
    assert len(reader.gave_up) == 5


def test_a_parent_waited_for_in_vain_is_not_waited_for_again() -> None:
    reader = Reader().reads(entry(BUSAN, 1, (SEOUL, 9)))
    assert reader.waits().takes() == [(BUSAN, 0, 1)]
    assert reader.reads(entry(BUSAN, 2, (SEOUL, 9))).takes() == [(BUSAN, 0, 2)]
    assert reader.gave_up == {(BUSAN, 0, 1), (BUSAN, 0, 2)}


def test_a_take_hands_out_no_more_than_asked_for_and_forgets_nothing() -> None:
    reader = Reader().reads(*(entry(SEOUL, n) for n in range(1, 8)))
    assert reader.takes(limit=3) == [(SEOUL, 0, 1), (SEOUL, 0, 2), (SEOUL, 0, 3)]
    assert reader.takes(limit=3) == [(SEOUL, 0, 4), (SEOUL, 0, 5), (SEOUL, 0, 6)]
    assert reader.takes() == [(SEOUL, 0, 7)]


def test_a_dropped_queue_can_be_read_again() -> None:
    reader = Reader().reads(entry(BUSAN, 1, (SEOUL, 1)), entry(SEOUL, 1))
    reader.held.drop((BUSAN, 0))
    assert reader.takes() == [(SEOUL, 0, 1)]
    assert reader.reads(entry(BUSAN, 1, (SEOUL, 1))).takes() == [(BUSAN, 0, 1)]


# ---------------------------------------------------------------- properties

KEYS: list[Key] = [(SEOUL, 0), (SEOUL, 1), (BUSAN, 0), (BUSAN, 1), ("daegu-01C", 0)]


@st.composite
def logs(draw: st.DrawFn) -> dict[Key, list[Entry]]:
    """A few logs; needs name anything of their shard: what is there, what never comes, and one another in rings."""
    found: dict[Key, list[Entry]] = {}
    for origin, shard in KEYS:
        length = draw(st.integers(0, 5))
        needs = st.lists(st.tuples(st.sampled_from([SEOUL, BUSAN, "daegu-01C"]), st.integers(1, 7)), max_size=2)
        found[(origin, shard)] = [entry(origin, n + 1, *draw(needs), shard=shard) for n in range(length)]
    return found


@given(logs(), st.data())
def test_every_entry_goes_once_in_order_and_behind_its_parents_unless_it_gave_up(
    logs: dict[Key, list[Entry]], data: st.DataObject
) -> None:
    reader = Reader()
    unread = {key: list(entries) for key, entries in logs.items() if entries}
    while unread:
        key = data.draw(st.sampled_from(sorted(unread)))
        for _ in range(data.draw(st.integers(1, 5))):
            if unread[key]:
                reader.reads(unread[key].pop(0))
        if not unread[key]:
            del unread[key]
        if data.draw(st.booleans()):
            reader.takes(limit=data.draw(st.integers(1, 4)))
        if data.draw(st.booleans()):
            reader.waits()
    rounds = 0
    while len(reader.held):
        reader.takes()
        reader.waits()
        rounds += 1
        assert rounds <= 2 * sum(len(entries) for entries in logs.values()), "it stands still"

    entries = {named(one): one for log in logs.values() for one in log}
    assert sorted(reader.got) == sorted(entries)
    reached = Vector()
    for name in reader.got:
        origin, shard, position = name
        assert position == reached[(origin, shard)] + 1
        needs = entries[name].records[0].event.need
        lacking = [(o, p) for o, p in needs if reached[(o, shard)] < p and not (o == origin and p >= position)]
        assert not lacking or name in reader.gave_up
        reached.advance(*name)


@given(logs(), st.data())
def test_nobody_gives_up_who_need_not(logs: dict[Key, list[Entry]], data: st.DataObject) -> None:
    """As long as no time passes, what is handed out has its parents, and what waits lacks one."""
    reader = Reader()
    order = [key for key, entries in logs.items() for _ in entries]
    places = {key: iter(entries) for key, entries in logs.items()}
    for key in data.draw(st.permutations(order)):
        reader.reads(next(places[key]))
    reader.takes()
    assert not reader.gave_up
    for key, entries in logs.items():
        left = reader.held.queued(key)
        assert left == len(entries) - reader.vector[key]
        if left:
            head = entries[reader.vector[key]]
            assert any(reader.vector[(o, key[1])] < p for o, p in head.records[0].event.need)
