"""What a session is told beside messages: what is REPLICATED, and that it has to go; however it comes about."""

from __future__ import annotations

from evertalk.adapters.wire import decode_vector, marker_field
from evertalk.chatnode.session import Session
from evertalk.core.replication import Watermarks
from evertalk.core.vector import Key, Vector
from evertalk.ports import Watermark
from evertalk.v1 import chat_pb2
from tests.adapters.store_helpers import ANNA, Pen
from tests.chatnode.world import Desk, Line, signed


def was_told(line: Line, key: Key, position: int) -> bool:
    """True if a frame said that this is REPLICATED."""
    return any(f.HasField("replicated") and decode_vector(f.replicated)[key] >= position for f in line.frames)


def beats(line: Line) -> int:
    """Heartbeats so far."""
    return sum(frame.HasField("heartbeat") for frame in line.frames)


async def beat(d: Desk, line: Line) -> None:
    """The node's next heartbeat, and with it all that was to be told before."""
    before = beats(line)
    d.hub.beat_all()
    await line.until(lambda: beats(line) > before)


async def test_a_watermark_that_went_up_and_down_while_nobody_read_is_told_when_it_is_up_again(
    d: Desk, pen: Pen
) -> None:
    d.node.marks = Watermarks(2)
    anna = await d.opened(ANNA)
    anna.say(signed(pen.message("one"), anna))
    await anna.answered(1)
    shard, position = anna.acks()[1]
    key = (d.node.origin, shard)

    def mark(life: str, reached: int) -> None:
        assert d.node.marks.note(Watermark("busan", life, *key, reached))
        d.hub.watermarks_moved({key})

    anna.reading.clear()
    d.hub.beat_all()  # a frame that she does not take: what comes now waits behind it
    mark("a/0", position)
    mark("b/0", 0)  # busan's Redis has lost its mirrors
    anna.reading.set()
    await anna.until(lambda: beats(anna) > 0)
    assert not was_told(anna, key, position)
    mark("b/0", position)
    await anna.until(lambda: was_told(anna, key, position))


async def test_what_an_import_folds_is_told_to_whoever_awaits_it(d: Desk) -> None:
    key = ("busan-01B", 0)
    anna = d.call(ANNA, awaiting=Vector({key: 9}))
    await anna.greeted()
    await beat(d, anna)
    async with d.node.writing:
        await d.store.finish_import("busan-1", "life", 1, Vector({key: 5}), {key[0]})
        await d.tailer.import_finished()
    await beat(d, anna)
    assert was_told(anna, key, 9)


async def test_who_is_told_without_a_pause_hears_of_going_away_all_the_same(d: Desk) -> None:
    anna = await d.opened(ANNA)
    [session] = d.hub._by_account[ANNA]
    number = 0

    def more(session: Session) -> None:
        nonlocal number
        number += 1
        session._deliveries.append((("x-y", 0), number, marker_field(Vector({("x-y", 0): number}))))
        session._wake.set()

    write = session._write

    async def slow(frame: bytes | chat_pb2.SessionResponse) -> None:
        if number < 100:
            more(session)  # while this one is on its way
        await write(frame)

    session._write = slow
    more(session)
    session.go_away(chat_pb2.GoAway(sentence="elsewhere"))
    await anna.until(lambda: any(frame.HasField("go_away") for frame in anna.frames))
    assert [frame.HasField("go_away") for frame in anna.frames].index(True) < 5
