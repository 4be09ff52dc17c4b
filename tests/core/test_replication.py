"""Replication decisions: mirrors without holes, honest watermarks, trims that lose nothing, folds that wait."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertalk.core import limits, replication
from evertalk.core.model import Stream
from evertalk.core.replication import Step, Watermarks, plan
from evertalk.core.vector import Hole, Vector
from evertalk.ports import OriginInfo, StoreEntry, StreamState, Watermark
from evertalk.replicator.region import BoardView

SEOUL, BUSAN = "seoul-01K00000000000000000000000", "busan-01K00000000000000000000000"
KEY = (SEOUL, 0)
NOW_MS = replication.born_ms(SEOUL) or 0


def entries(*positions: int) -> list[tuple[int, bytes]]:
    return [(p, b"%d" % p) for p in positions]


def store(
    held: int, region: str = "busan", node: str = "a", holes: Sequence[Hole] = (), age_s: float = 0.0, key: int = 0
) -> StoreEntry:
    """A store of which `held` positions of seoul's log are checkpointed."""
    vector = Vector({(SEOUL, key): held}, holes)
    return StoreEntry(f"{region}-{node}", region, "life", "SERVING", vector, vector, age_s)


# ---------------------------------------------------------------- pulling


@pytest.mark.parametrize(
    ("asked", "last", "floor", "read", "wanted"),
    [
        pytest.param(4, 4, 0, entries(5, 6), Step(append=tuple(entries(5, 6))), id="what follows is appended"),
        pytest.param(4, 5, 0, entries(5, 6), Step(append=tuple(entries(6))), id="another replicator was faster"),
        pytest.param(4, 6, 0, entries(5, 6), Step(), id="it was much faster"),
        pytest.param(4, 0, 0, entries(5, 6), Step(), id="the mirror was emptied while we read"),
        pytest.param(4, 4, 6, entries(5, 6, 7), Step(append=tuple(entries(5, 6, 7))), id="trimmed after it was read"),
        pytest.param(4, 4, 6, entries(7, 8), Step(jump=6), id="trimmed before it was read"),
        pytest.param(4, 4, 9, entries(7, 8), Step(jump=6), id="what was read is kept although trimmed since"),
        pytest.param(4, 4, 9, [], Step(jump=9), id="everything was trimmed"),
        pytest.param(4, 4, 4, [], Step(), id="nothing new"),
        pytest.param(4, 4, 0, entries(5, 7), Step(append=tuple(entries(5))), id="never past a gap"),
    ],
)
def test_a_read_means_an_append_or_a_jump(
    asked: int, last: int, floor: int, read: list[tuple[int, bytes]], wanted: Step
) -> None:
    assert plan(asked, last, floor, read) == wanted


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8), st.integers(0, 3), st.integers(1, 4)), max_size=30))
def test_a_mirror_is_always_dense_above_its_base(rounds: list[tuple[int, int, int, int]]) -> None:
    """Whatever is written, trimmed and lost between the rounds, and however little a read gives."""
    log_last = floor = last = base = 0
    mirror: list[int] = []
    for written, trimmed, late_trim, count in rounds:
        log_last += written
        floor = max(floor, min(log_last, trimmed * 3))
        read = entries(*range(max(last, floor) + 1, log_last + 1)[:count])
        floor = min(log_last, floor + late_trim)  # R6: floors are fetched after the entries
        step = plan(last, last, floor, read)
        if step.jump:
            assert step.jump > last, "a jump moves on"
            base = last = step.jump
            mirror = []
        for position, _ in step.append:
            mirror.append(position)
            last = position
        assert mirror == list(range(base + 1, last + 1))
        assert step != Step() or (not read and floor <= last), "nothing is left lying"


def test_a_peer_is_asked_for_its_own_logs_and_for_orphans_of_third_regions() -> None:
    theirs = {
        name: OriginInfo(name, region, state)
        for name, region, state in [
            ("busan-1", "busan", "folded"), ("busan-2", "busan", "closed"), ("busan-3", "busan", "open"),
            ("seoul-1", "seoul", "closed"), ("jeju-1", "jeju", "open"), ("daegu-1", "daegu", "open"),
        ]
    }  # fmt: skip
    ours = {"busan-2": OriginInfo("busan-2", "busan", "closed")}

    def pulled() -> set[tuple[str, bool]]:
        streams = replication.streams_to_pull("busan", "seoul", theirs, ours, 2, {"jeju-1", "seoul-1"})
        assert {s.shard for s in streams} == {0, 1}
        return {(s.origin, s.mirror) for s in streams}

    assert pulled() == {("busan-2", False), ("busan-3", False), ("jeju-1", True)}
    ours["busan-2"] = OriginInfo("busan-2", "busan", "folded")
    assert pulled() == {("busan-3", False), ("jeju-1", True)}


# ---------------------------------------------------------------- origins


def test_only_news_is_carried_and_own_lost_lives_are_closed() -> None:
    ours = {
        "seoul-2": OriginInfo("seoul-2", "seoul", "open"),
        "busan-1": OriginInfo("busan-1", "busan", "closed", (5, 0)),
        "busan-2": OriginInfo("busan-2", "busan", "open"),
    }
    theirs = {
        "seoul-1": OriginInfo("seoul-1", "seoul", "open"),
        "seoul-2": OriginInfo("seoul-2", "seoul", "closed"),
        "busan-1": OriginInfo("busan-1", "busan", "closed", (5, 7)),
        "busan-2": OriginInfo("busan-2", "busan", "open"),
    }
    news = replication.news_of_origins("seoul", ours, theirs, 0)
    assert news == [("seoul-1", "seoul", "closed", ()), ("busan-1", "busan", "closed", (5, 7))]

    del ours["seoul-2"]
    news = replication.news_of_origins("seoul", ours, theirs, 0)
    assert [origin for origin, *_ in news] == ["busan-1"], "who has not claimed knows nothing of its own"


def test_a_folded_record_outlives_its_origin_by_max_age() -> None:
    """It says when it began; that it ended is said by the birth of the next one."""
    born = replication.born_ms(SEOUL)
    heir = replication.born_ms("seoul-01M00000000000000000000000")
    assert born is not None
    assert heir is not None
    assert heir - born > limits.MAX_AGE_MS
    origins = {
        name: OriginInfo(name, "seoul", state)
        for name, state in [
            ("seoul-01K00000000000000000000000", "folded"),
            ("seoul-01M00000000000000000000000", "open"),
        ]
    }
    old = origins[SEOUL]
    assert not replication.outlived(old, origins, heir + limits.MAX_AGE_MS)
    assert replication.outlived(old, origins, heir + limits.MAX_AGE_MS + 1)
    assert not replication.outlived(old, {old.origin: old}, heir * 2), "without an heir nobody knows when it ended"
    assert replication.news_of_origins("busan", {}, origins, heir * 2) == [
        ("seoul-01M00000000000000000000000", "seoul", "open", ())
    ], "what was forgotten is not brought back by a peer that still knows it"


def test_a_ulid_says_when() -> None:
    assert replication.born_ms("a-dashed-region-01ARZ3NDEKTSV4RRFFQ69G5FAV") == 1469922850259
    assert replication.born_ms("seoul-1") is None


# ---------------------------------------------------------------- what stores hold


def test_two_stores_must_hold_it_or_the_only_one() -> None:
    assert replication.held([], "busan", KEY) == 0
    assert replication.held([store(7)], "busan", KEY) == 7
    assert replication.held([store(7), store(5, node="b")], "busan", KEY) == 5
    assert replication.held([store(7), store(5, node="b"), store(6, node="c")], "busan", KEY) == 6
    assert replication.held([store(7), store(5, node="b", age_s=61)], "busan", KEY) == 7
    assert replication.held([store(7), store(5, region="seoul")], "busan", KEY) == 7


def test_a_hole_above_the_floor_is_not_held() -> None:
    holey = store(9, holes=[Hole(SEOUL, 0, 4, 5)])
    assert replication.held([holey], "busan", KEY) == 3
    assert replication.held([holey], "busan", KEY, floor=5) == 9
    assert replication.held([holey], "busan", KEY, floor=4) == 3
    assert replication.held([store(9, holes=[Hole(SEOUL, 1, 4, 5)])], "busan", KEY) == 9


def test_a_watermark_is_valid_once_stores_cover_its_base() -> None:
    assert replication.is_valid([], "busan", KEY, base=0)
    assert not replication.is_valid([], "busan", KEY, base=3)
    assert not replication.is_valid([store(3), store(2, node="b")], "busan", KEY, base=3)
    assert replication.is_valid([store(3), store(3, node="b")], "busan", KEY, base=3)
    assert not replication.is_valid([store(9, holes=[Hole(SEOUL, 0, 2, 2)])], "busan", KEY, base=3)
    assert replication.is_valid([store(9, holes=[Hole(SEOUL, 0, 7, 7)])], "busan", KEY, base=3)


# ---------------------------------------------------------------- watermarks


def mark(position: int, holder: str = "busan", life: str = "busan-1/0", origin: str = SEOUL) -> Watermark:
    return Watermark(holder, life, origin, 0, position)


def test_within_a_life_a_watermark_only_rises_and_a_new_life_replaces_it() -> None:
    marks = Watermarks(copies=2)
    assert marks.note(mark(5))
    assert not marks.note(mark(5))
    assert not marks.note(mark(3))
    assert marks.replicated(*KEY) == 5
    assert marks.note(mark(2, life="busan-2/0"))
    assert marks.replicated(*KEY) == 2
    assert marks.vector() == Vector({KEY: 2})


def test_replicated_counts_the_home_once_and_the_best_of_the_others() -> None:
    marks = {copies: Watermarks(copies) for copies in (1, 2, 3, 4)}
    for table in marks.values():
        for told in (mark(9, "seoul"), mark(5, "busan"), mark(7, "jeju")):
            table.note(told)
    assert {copies: table.replicated(*KEY) for copies, table in marks.items()} == {1: 9, 2: 7, 3: 5, 4: 0}
    assert marks[2].replicated(BUSAN, 0) == 0


def test_folded_origins_are_dropped() -> None:
    marks = Watermarks(copies=2)
    marks.note(mark(5))
    marks.note(mark(5, holder="seoul", origin=BUSAN))
    marks.drop([SEOUL])
    assert [held.origin for held in marks.all()] == [BUSAN]


def test_a_view_shows_what_a_region_holds_and_that_it_lost_something() -> None:
    origins = {BUSAN: OriginInfo(BUSAN, "busan", "open"), SEOUL: OriginInfo(SEOUL, "seoul", "open")}
    streams = {Stream(SEOUL, 0, True): StreamState(9, 9, 900, 0), Stream(SEOUL, 1, True): StreamState(9, 5, 500, 4, 4)}
    view = BoardView("busan", origins, [], streams)
    assert replication.marks_of(view, {}, 2) == [
        Watermark("busan", f"{BUSAN}/0", SEOUL, 0, 9),
        Watermark("busan", f"{BUSAN}/4", SEOUL, 1, 0),
    ], "it jumped, and no store covers what it lacks"
    view.stores.append(store(4, key=1))
    assert replication.marks_of(view, {}, 2)[1].position == 9

    emptied = BoardView("busan", {BUSAN: origins[BUSAN]}, [], {})
    assert {held.position for held in replication.marks_of(emptied, origins, 2)} == {0}
    assert replication.marks_of(BoardView("busan", {}, [], {}), origins, 2) == [], "nobody has claimed it yet"


# ---------------------------------------------------------------- trimming


def test_a_stream_is_trimmed_to_what_nobody_lacks() -> None:
    level = StreamState(last=100, length=100, bytes=1000, floor=0)
    assert replication.trim_to(level, held_to=90, keep=0, cap=10_000) == 90
    assert replication.trim_to(level, held_to=90, keep=30, cap=10_000) == 70
    assert replication.trim_to(level, held_to=90, keep=30, cap=10_000, peers=40) == 40
    assert replication.trim_to(level, held_to=90, keep=200, cap=10_000) <= level.floor


def test_at_the_cap_peers_and_readers_are_let_go_but_never_own_stores() -> None:
    level = StreamState(last=100, length=100, bytes=1000, floor=0)
    assert replication.trim_to(level, held_to=90, keep=80, cap=500, peers=0) == 50
    assert replication.trim_to(level, held_to=30, keep=80, cap=500, peers=0) == 30
    assert replication.trim_to(level, held_to=90, keep=80, cap=1000, peers=0) == 0
    assert replication.trim_to(level, held_to=90, keep=80, cap=1000, peers=0, pressed=True) == 75
    assert replication.held_back(level, held_to=49, cap=500)
    assert not replication.held_back(level, held_to=50, cap=500)
    assert not replication.held_back(level, held_to=0, cap=1000)


def test_memory_is_short_above_85_percent_of_a_limit() -> None:
    assert replication.under_pressure(86, 100)
    assert not replication.under_pressure(85, 100)
    assert not replication.under_pressure(86, 0)


# ---------------------------------------------------------------- folding and redundancy


def world(state: str = "closed", log: int = 5, mirror: int = 5, base: int = 0) -> dict[str, BoardView]:
    """Seoul with its log, busan with its mirror and one store each that holds all of both."""
    origins = {SEOUL: OriginInfo(SEOUL, "seoul", state)}
    return {
        "seoul": BoardView(
            "seoul", dict(origins), [store(5, "seoul")], {Stream(SEOUL, 0): StreamState(log, log, 0, 0)}
        ),
        "busan": BoardView(
            "busan",
            dict(origins),
            [store(5)],
            {Stream(SEOUL, 0, True): StreamState(mirror, mirror - base, 0, base, base)},
        ),
    }


def folds(views: dict[str, BoardView]) -> bool:
    return replication.may_fold(views["busan"].origins[SEOUL], 1, ["seoul", "busan"], views)


def test_an_origin_folds_when_all_counted_stores_of_all_regions_cover_all_that_is_known() -> None:
    assert folds(world())
    assert not folds(world(state="open"))
    assert not folds(world(log=6)), "the home's log has more"
    assert not folds(world(mirror=6)), "a mirror has more"
    views = world()
    views["seoul"].origins[SEOUL] = OriginInfo(SEOUL, "seoul", "closed", (6,))
    assert not folds(views), "the record says there was more"
    views = world()
    views["busan"].stores.append(store(4, node="b"))
    assert not folds(views), "one store lacks something"
    views["busan"].stores[1] = store(4, node="b", age_s=61)
    assert folds(views), "it does not count any more"
    views["busan"].stores[0] = store(5, age_s=61)
    assert not folds(views), "nobody is left to count"


def test_an_origin_does_not_fold_behind_the_back_of_a_region() -> None:
    views = world()
    del views["seoul"]
    assert not folds(views), "seoul was not heard from"
    views = world()
    views["seoul"].origins[SEOUL] = OriginInfo(SEOUL, "seoul", "open")
    assert not folds(views), "when seoul was read its log was still growing"


def test_an_origin_that_only_stores_name_is_recorded_as_closed() -> None:
    """Its Redis burned before anybody had carried the record."""
    views = world()
    seoul = views["seoul"]
    heir = "seoul-01K0000001" + 16 * "0"  # a millisecond later
    seoul.origins.clear()
    assert replication.unrecorded("seoul", seoul, 1, NOW_MS) == [], "nobody has claimed the next one yet"
    seoul.origins[heir] = OriginInfo(heir, "seoul", "open")
    seoul.streams.clear()
    assert replication.unrecorded("seoul", seoul, 1, NOW_MS) == [OriginInfo(SEOUL, "seoul", "closed", (5,))]
    assert replication.unrecorded("busan", views["busan"], 1, NOW_MS) == [], "each region does it for its own"
    much_later = NOW_MS + limits.MAX_AGE_MS + 2
    assert replication.unrecorded("seoul", seoul, 1, much_later) == [], "it may be one that was forgotten"
    seoul.origins[SEOUL] = OriginInfo(SEOUL, "seoul", "closed")
    assert replication.unrecorded("seoul", seoul, 1, NOW_MS) == []


def lost(first: int = 2, last: int = 3) -> dict[str, BoardView]:
    """As `world`, but seoul's disks burned, and what nobody had mirrored yet is a hole everywhere."""
    views = world(base=last)
    views["seoul"].streams.clear()
    for view in views.values():
        for vector in (view.stores[0].vector, view.stores[0].checkpointed):
            vector.open_hole(Hole(SEOUL, 0, first, last))
    return views


def test_an_origin_folds_without_what_is_lost_for_good() -> None:
    assert folds(lost())


@pytest.mark.parametrize("region", ["seoul", "busan"])
def test_an_origin_does_not_fold_while_somebody_has_what_others_lack(region: str) -> None:
    views = lost()
    views[region].stores.append(store(5, region, node="b"))
    assert not folds(views), "a store has it"
    views[region].stores[-1].vector.open_hole(Hole(SEOUL, 0, 2, 2))
    assert not folds(views), "a store has some of it"
    views = lost()
    views[region].streams[Stream(SEOUL, 0, region == "busan")] = StreamState(5, 3, 0, 2, 0)
    assert not folds(views), "a stream has some of it"
    views = lost()
    views[region].stores.append(store(4, region, node="b"))
    assert not folds(views), "a store is behind besides"


def test_what_is_lost_for_good_holds_nothing_up_while_its_origin_is_open() -> None:
    """Nothing would ever be REPLICATED behind it, nor redundancy whole, until that Redis is started anew."""
    hole = Hole(SEOUL, 0, 2, 3)

    def known(views: dict[str, BoardView]) -> set[Hole]:
        return set(replication.lost_for_good(["seoul", "busan"], views))

    views = lost()
    views["seoul"].origins[SEOUL] = OriginInfo(SEOUL, "seoul", "open")
    assert known(views) == {hole}
    assert not replication.is_valid(views["busan"].stores, "busan", KEY, 3)
    assert replication.is_valid(views["busan"].stores, "busan", KEY, 3, known(views))
    assert not replication.is_valid(views["busan"].stores, "busan", KEY, 6, known(views)), "stores end at 5"
    assert redundant(views) == []

    views["busan"].stores.append(store(3, node="b", holes=[Hole(SEOUL, 0, 2, 2)]))
    assert known(views) == {Hole(SEOUL, 0, 2, 2)}, "a store has the rest of it"
    views["busan"].stores[-1] = store(1, node="b")
    assert known(views) == set(), "a store has not come that far"
    views = lost()
    views["seoul"].streams[Stream(SEOUL, 0)] = StreamState(5, 3, 0, 2)
    assert known(views) == set(), "a stream has some of it"
    views = lost()
    views["seoul"].stores[0] = store(5, "seoul", holes=[hole], age_s=61)
    assert known(views) == set(), "no store of seoul counts"
    del views["seoul"]
    assert known(views) == set(), "seoul was not heard from"


def redundant(views: dict[str, BoardView], before: dict[str, BoardView] | None = None) -> list[str]:
    found = replication.redundancy(views, ["seoul", "busan"], 1, 2, (before or {}).values())
    assert found.whole is (not found.reasons)
    return found.reasons


def test_redundancy_is_whole_when_two_regions_hold_all_that_anyone_knows_of() -> None:
    assert redundant(world("open")) == []
    views = world("open", log=7, mirror=6)
    assert redundant(views) == [f"{SEOUL} shard 0 is held up to its last position 7 only in seoul"]
    assert redundant(views, before=world("open", log=6, mirror=5)) == [], "traffic in flight does not count"
    del views["busan"]
    assert redundant(views)[0] == "busan has not been heard from"


def test_what_a_mirror_jumped_over_must_be_in_a_store() -> None:
    views = world("open", log=7, mirror=7, base=5)
    assert redundant(views) == []
    views["busan"].stores[0] = store(4)
    assert redundant(views) == [f"{SEOUL} shard 0 is held up to its last position 7 only in seoul"]


def test_a_store_is_a_holder_too_and_folded_origins_need_none() -> None:
    views = world("open", mirror=0)
    assert redundant(views) == [], "busan's mirror is gone, its store is not"
    views["busan"].stores.clear()
    assert redundant(views) != []
    views["seoul"].origins[SEOUL] = OriginInfo(SEOUL, "seoul", "folded")
    assert redundant(views) == []


def test_what_is_past_the_retention_goes_even_if_a_peer_has_not_got_it_but_never_before_own_stores() -> None:
    ages, log = replication.Ages(keep_s=160), Stream(SEOUL, 0)
    assert ages.old(log, 10, now_s=0) == 0
    assert ages.old(log, 20, now_s=20) == 0
    assert ages.old(log, 30, now_s=165) == 10
    assert ages.old(log, 30, now_s=200) == 20
    level = StreamState(30, 30, 3000, 0)
    assert replication.trim_to(level, held_to=30, keep=1000, cap=10**9, peers=0) <= 0
    assert replication.trim_to(level, held_to=30, keep=1000, cap=10**9, peers=0, old=20) == 20
    assert replication.trim_to(level, held_to=15, keep=1000, cap=10**9, peers=0, old=20) == 15
    ages.only([])
    assert ages.old(log, 30, now_s=400) == 0, "a stream that is gone is forgotten"
