"""One client and scripted nodes: sending, taking, the token, and the way out."""

from __future__ import annotations

import asyncio

import pytest

from evertalk.adapters import wire
from evertalk.client import Client, Connected, Gap, What
from evertalk.core.errors import Code, NotReplicated, PeerUnavailable, Refused, SendFailed, SendUnknown
from evertalk.core.ids import shard_of
from evertalk.core.model import Applied, Durability, Edit, Level, Message, Receipt
from evertalk.core.token import Token
from evertalk.core.vector import Vector
from evertalk.v1 import chat_pb2
from tests.client.virtual import virtual
from tests.client.world import ALICE, BOB, OTHER_ROOM, ROOM, SHARDS, World, refuse


async def take(chat: Client, count: int) -> list[str]:
    """The next `count` message texts."""
    texts: list[str] = []
    while len(texts) < count:
        item = await anext(chat.events())
        if isinstance(item, Applied) and isinstance(item.event.body, Message):
            texts.append(item.event.body.text)
    return texts


async def settle() -> None:
    """Let everything happen that can happen now."""
    for _ in range(50):
        await asyncio.sleep(0)


@virtual
async def test_send_is_answered_with_where_it_was_accepted() -> None:
    world = World()
    async with world.client() as chat:
        sent = await chat.send(ROOM, "hello")
        assert chat.account == ALICE
        assert (sent.scope, sent.origin, sent.position) == (ROOM, "seoul-01", 1)
        assert sent.durability == Durability.ACCEPTED
    assert world.seoul.ids() == [sent.id]
    assert [n.what for n in world.notices] == [What.CONNECTED, What.INVOKED, What.ACCEPTED]


@virtual
async def test_send_can_wait_until_it_is_replicated() -> None:
    world = World()
    async with world.client() as chat:
        sending = asyncio.create_task(chat.send(ROOM, "hello", wait_for=Durability.REPLICATED))
        await settle()
        assert not sending.done()
        world.replicate()
        assert (await sending).durability == Durability.REPLICATED


@virtual
async def test_replicated_that_does_not_come_is_said_by_name() -> None:
    world = World()
    async with world.client() as chat:
        with pytest.raises(NotReplicated):
            await chat.send(ROOM, "hello", wait_for=Durability.REPLICATED, timeout=2)


@virtual
async def test_send_without_an_answer_is_unknown_and_stays_in_the_outbox() -> None:
    world = World()
    async with world.client() as chat:
        for node in world.nodes.values():
            node.held_acks = []
        with pytest.raises(SendUnknown):
            await chat.send(ROOM, "hello", timeout=2)
        for node in world.nodes.values():
            node.release_acks()
        await settle()
        assert world.told(What.ACCEPTED)


@virtual
async def test_a_definite_refusal_fails_one_send_and_no_other() -> None:
    world = World()
    world["seoul-1"].policy = refuse(Code.NOT_ALLOWED, text="two")
    async with world.client() as chat:
        posted = [await chat.post(ROOM, text) for text in ("one", "two", "three")]
        await posted[0].accepted
        await posted[2].accepted
        with pytest.raises(SendFailed) as failed:
            await posted[1].accepted
        assert failed.value.code == Code.NOT_ALLOWED
    assert list(dict.fromkeys(world.seoul.texts())) == ["one", "three"]


@virtual
async def test_not_yet_holds_back_its_conversation_only_and_keeps_its_order() -> None:
    world = World()
    world["seoul-1"].policy = refuse(Code.NOT_YET, times=3, text="one")
    async with world.client() as chat:
        first = await chat.post(ROOM, "one")
        second = await chat.post(ROOM, "two")
        other = await chat.post(OTHER_ROOM, "elsewhere")
        await other.accepted
        assert first.outcome is None
        assert second.outcome is None
        await second.accepted
    assert world.seoul.texts() == ["one", "two"]


@virtual
async def test_an_overloaded_node_is_given_time_and_no_hedge_is_made() -> None:
    world = World()
    world["seoul-1"].policy = refuse(Code.OVERLOADED, retry_after_ms=3000)
    async with world.client() as chat:
        started = world.clock.monotonic()
        await chat.send(ROOM, "hello")
        assert world.clock.monotonic() - started >= 3
    assert not world.told(What.HEDGED)
    assert world["busan-1"].greeted == 0


@virtual
async def test_what_is_too_large_is_refused_before_it_is_queued() -> None:
    world = World()
    async with world.client() as chat:
        with pytest.raises(Refused) as refused:
            await chat.send(ROOM, "x" * 20_000)
        assert refused.value.code == Code.TOO_LARGE
    assert not world.told(What.INVOKED)


@virtual
async def test_stamps_grow_beyond_everything_seen() -> None:
    world = World()
    async with world.client() as chat:
        future = world.message("from a fast region")
        ahead = wire.decode_event(future.raw)
        ahead = wire.encode_event(
            type(ahead)(
                ahead.id, ahead.scope, ahead.sender, ahead.session, ahead.hlc + (20_000 << 16), ahead.kind, ahead.body
            )
        )
        world["seoul-1"].deliver(ahead)
        await take(chat, 1)
        first = await chat.send(ROOM, "reply")
        second = await chat.send(ROOM, "again")
        assert ahead.hlc < first.hlc < second.hlc


@virtual
async def test_stamps_grow_beyond_when_what_was_seen_was_accepted() -> None:
    world = World()
    async with world.client() as chat:
        accepted_at = (world.clock.wall_ms() + 5000) << 16
        shown = Applied(world.message("hi"), accepted_at, "busan-01", 0, 1)
        world["seoul-1"].stream.say(deliveries=[wire.encode_delivery(shown)])
        await take(chat, 1)
        assert (await chat.send(ROOM, "ho")).hlc > accepted_at


@virtual
async def test_an_event_names_what_its_author_had_seen_of_its_shard() -> None:
    world = World()
    async with world.client() as chat:
        world["seoul-1"].deliver(world.message("parent"))
        await take(chat, 1)
        await chat.send(ROOM, "child")
        await chat.send(OTHER_ROOM, "stranger")
    events = [e for entries in world.seoul.log.values() for e in entries if e.sender == ALICE]
    needs = {e.body.text: e.need for e in events}  # type: ignore[union-attr]
    assert needs["child"] == (("seoul-01", 1),)
    assert needs["stranger"] == ()


@virtual
async def test_events_come_once_and_own_ones_not_at_all() -> None:
    world = World()
    async with world.client() as chat:
        node = world["seoul-1"]
        one, two = world.message("one"), world.message("two")
        node.deliver(one, one, two)
        node.deliver(world.message("mine", ALICE, session=chat.session), world.message("my phone's", ALICE))
        assert await take(chat, 3) == ["one", "two", "my phone's"]


@virtual
async def test_the_token_covers_what_was_taken_and_no_more() -> None:
    world = World()
    async with world.client() as chat:
        world["seoul-1"].deliver(world.message("one"))
        world["seoul-1"].deliver(world.message("two"))
        await settle()
        before = Token.from_bytes(chat.token())
        await take(chat, 1)
        after = Token.from_bytes(chat.token())
        key = next(iter(dict(world.seoul.applied)))
        assert before.have == Vector()
        assert after.have is not None
        assert after.have[key] == 1
        assert len(after.delivered) == 1
        kept = chat.token()
    async with world.client(token=kept) as again:
        hello = world["seoul-1"].stream.hello
        assert hello is not None
        assert not hello.fresh
        assert wire.decode_vector(hello.have)[key] == 1
        assert again.session == after.session


@virtual
async def test_after_a_crash_what_comes_again_by_another_origin_is_not_shown_twice() -> None:
    world = World()
    message = world.message("once")
    async with world.client() as chat:
        world["seoul-1"].deliver(message)
        await take(chat, 1)
        kept = chat.token()
    world["seoul-1"].kill()
    async with world.client(token=kept) as again:
        world["busan-1"].deliver(message, world.message("new"))
        assert await take(again, 1) == ["new"]


@virtual
async def test_after_a_crash_amid_the_page_of_a_joining_only_the_rest_of_it_is_shown() -> None:
    """A page may lie below `have`; it comes again until a marker has passed the joining that brought it (R13)."""
    world = World()
    old = [world.message(f"old {n}") for n in range(3)]
    key = world.seoul.origin, shard_of(ROOM, SHARDS)
    rows = [Applied(event, event.hlc, *key, world.seoul.append(event)[1]) for event in old]
    page = [wire.encode_delivery(row) for row in rows]
    async with world.client() as chat:
        world.replicate()
        world["seoul-1"].stream.say(deliveries=page)
        assert await take(chat, 1) == ["old 0"]
        kept = chat.token()
    async with world.client(token=kept) as again:
        world.replicate()
        await settle()
        kept = again.token()
    async with world.client(token=kept) as again:
        world["seoul-1"].stream.say(deliveries=page)
        assert await take(again, 2) == ["old 1", "old 2"]


@virtual
async def test_a_sender_that_takes_no_events_goes_on_sending_and_loses_none() -> None:
    world = World()
    async with world.client() as chat:
        node = world["seoul-1"]
        for n in range(5000):
            node.deliver(world.message(str(n)))
        for n in range(3):
            await chat.send(OTHER_ROOM, f"sent {n}")
        first = node.stream
        texts = await take(chat, 1000)
        assert node.stream is first
        while len(chat.events()):
            texts += await take(chat, 1)
        await settle()
        # The rest was let go, and comes again on a stream that starts from what was queued.
        hello = node.stream.hello
        assert hello is not None
        start = wire.decode_vector(hello.have)[next(iter(dict(world.seoul.applied)))]
        assert texts == [str(n) for n in range(len(texts))]
        assert node.stream is not first
        assert start == len(texts) < 5000


@virtual
async def test_a_gap_is_an_event() -> None:
    world = World()
    async with world.client() as chat:
        missing = Vector({("busan-00", 1): 9})
        world["seoul-1"].stream.say(gap=chat_pb2.Gap(missing=wire.encode_vector(missing)))
        items = [await anext(chat.events()) for _ in range(2)]
        assert isinstance(items[0], Connected)
        assert items[1] == Gap(missing)


@virtual
async def test_edits_count_up_from_the_highest_version_seen() -> None:
    world = World()
    async with world.client() as chat:
        sent = await chat.send(ROOM, "helo")
        first = await chat.edit(ROOM, (ALICE, sent.id), "hello")
        second = await chat.edit(ROOM, (ALICE, sent.id), "hello!")
    edits = {e.id: e for log in world.seoul.log.values() for e in log if isinstance(e.body, Edit)}
    assert edits[second.id].version == edits[first.id].version + 1


@virtual
async def test_creations_wait_for_replicated_only_while_another_region_answers() -> None:
    world = World()
    async with world.client() as chat:
        creating = asyncio.create_task(chat.direct(BOB))
        await settle()
        assert not creating.done()
        world.replicate()
        made = await creating
        assert made.durability == Durability.REPLICATED
        world["seoul-1"].stream.say(heartbeat=chat_pb2.Heartbeat(region_time_ms=1, peers_live=False))
        await settle()
        group = await chat.create_group("team", [BOB])
        assert group.durability == Durability.ACCEPTED


@virtual
async def test_delivered_receipts_are_coalesced_and_say_each_position_once() -> None:
    world = World()
    async with world.client(receipts=True) as chat:
        for text in ("one", "two", "three"):
            world["seoul-1"].deliver(world.message(text))
        await take(chat, 3)
        await asyncio.sleep(5)
        await chat.mark_read(ROOM, world["seoul-1"].deliver(world.message("four"))[0])
        await asyncio.sleep(5)
    said = [e.body for log in world.seoul.log.values() for e in log if isinstance(e.body, Receipt)]
    assert [(r.level, r.position) for r in said] == [(Level.DELIVERED, 3), (Level.READ, 5), (Level.DELIVERED, 5)]


@virtual
async def test_leaving_waits_a_little_for_what_was_posted() -> None:
    world = World()
    world["seoul-1"].policy = refuse(Code.NOT_YET, times=2)
    async with world.client() as chat:
        posted = await chat.post(ROOM, "bye")
    assert posted.outcome is not None


@virtual
async def test_leaving_tells_whoever_still_waits() -> None:
    world = World()
    async with world.client() as chat:
        world["seoul-1"].held_acks = world["busan-1"].held_acks = []
        posted = await chat.post(ROOM, "bye")
    with pytest.raises(SendUnknown):
        await posted.accepted
    assert [type(item) async for item in chat.events()] == [Connected]


@virtual
async def test_an_error_of_the_application_comes_out_as_itself() -> None:
    world = World()
    with pytest.raises(ZeroDivisionError):
        async with world.client():
            raise ZeroDivisionError


@virtual
async def test_no_node_at_all_is_said_after_the_start_timeout() -> None:
    world = World()
    for node in world.nodes.values():
        node.kill()
    with pytest.raises(PeerUnavailable):
        async with world.client(start_timeout=3):
            pass


@virtual
async def test_a_token_that_nobody_takes_and_no_password_ends_the_client_by_name() -> None:
    world = World()
    bad = Refused(Code.BAD_TOKEN, "expired")
    for node in world.nodes.values():
        node.refuses_hello = bad
        node.answers["Refresh"] = bad
    with pytest.raises(Refused) as refused:
        async with world.client():
            pass
    assert refused.value.code == Code.BAD_TOKEN


@virtual
async def test_a_cancelled_send_cancels_nothing_but_the_waiting() -> None:
    world = World()
    async with world.client() as chat:
        world["seoul-1"].held_acks = []
        sending = asyncio.create_task(chat.send(ROOM, "hello"))
        await settle()
        sending.cancel()
        await settle()
        world["seoul-1"].release_acks()
        await settle()
        assert world.told(What.ACCEPTED)
