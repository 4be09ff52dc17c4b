"""Nodes that die, hang, drain and return while a client is talking (P6)."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from evertalk.adapters import wire
from evertalk.client import Client, What
from evertalk.core import limits
from evertalk.core.errors import Code, PeerUnavailable, Refused
from evertalk.core.model import Deletion, Kind, Target
from evertalk.v1 import accounts_pb2, chat_pb2
from tests.client.test_client import settle, take
from tests.client.virtual import SeededIds, virtual
from tests.client.world import BOB, OTHER_ROOM, ROOM, Node, World, refuse


async def gap_of_a_send(world: World, chat: Client, text: str) -> float:
    """Virtual seconds until a send is acknowledged."""
    started = world.clock.monotonic()
    await chat.send(ROOM, text)
    return world.clock.monotonic() - started


async def hedged(world: World, chat: Client) -> tuple[Node, Node]:
    """Two nodes with a stream each: busan was greeted before seoul answered."""
    seoul, busan = world["seoul-1"], world["busan-1"]
    seoul.held_acks, busan.held_acks = [], []
    await chat.post(ROOM, "slow")
    await asyncio.sleep(limits.HEDGE_AFTER_S + 0.1)
    return seoul, busan


@virtual
async def test_a_killed_region_costs_less_than_a_second() -> None:
    world = World(nodes=2)
    async with world.client() as chat:
        await chat.send(ROOM, "before")
        world["seoul-1"].kill()
        world["seoul-2"].kill()
        assert await gap_of_a_send(world, chat, "after") < 0.5
        assert chat.region == "busan"
    assert world.busan.texts() == ["before", "after"]  # the new region did not cover the first


@virtual
async def test_a_killed_node_costs_a_step_to_its_neighbour() -> None:
    world = World(nodes=2)
    async with world.client() as chat:
        first = chat.node
        world[first].kill()
        assert await gap_of_a_send(world, chat, "after") < 0.1
        assert chat.region == "seoul"
        assert chat.node != first


@virtual
async def test_a_hanging_region_costs_less_than_two_seconds_and_stays_left() -> None:
    world = World()
    async with world.client() as chat:
        await chat.send(ROOM, "before")
        world["seoul-1"].hang()
        assert await gap_of_a_send(world, chat, "after") < 1
        assert chat.region == "busan"
        assert len(world.told(What.HEDGED)) == 1
        assert await gap_of_a_send(world, chat, "next") < 0.1
        assert not world["seoul-1"].streams


@virtual
async def test_a_hedge_does_not_go_to_a_neighbour_that_hangs_with_it() -> None:
    """The region's Redis stands still: every node of it greets at once and acknowledges nothing."""
    world = World(nodes=2)
    async with world.client() as chat:
        for name in ("seoul-1", "seoul-2"):
            world[name].held_acks = []
        for name in ("busan-1", "busan-2"):
            world[name].hello_delay_s = 0.5  # far away
        assert await gap_of_a_send(world, chat, "after") < 1
        assert chat.region == "busan"


@virtual
async def test_a_hedge_goes_to_a_neighbour_when_no_other_region_answers() -> None:
    world = World(nodes=2)
    async with world.client() as chat:
        first = chat.node
        world[first].hang()
        for name in ("busan-1", "busan-2"):
            world[name].kill()
        assert await gap_of_a_send(world, chat, "after") < 1
        assert chat.region == "seoul"


@virtual
async def test_a_hedge_that_is_refused_by_name_takes_over_too() -> None:
    """It has an answer, which is more than the first stream has; what follows does not wait for that one."""
    world = World()
    async with world.client() as chat:
        world["seoul-1"].hang()
        world["busan-1"].policy = refuse(Code.NOT_ALLOWED, text="forbidden")
        await chat.post(ROOM, "forbidden")
        assert await gap_of_a_send(world, chat, "after") < 1
        assert chat.region == "busan"
    assert world.busan.texts() == ["after"]


@virtual
async def test_without_leave_to_hedge_silence_is_not_borne_long() -> None:
    world = World()
    async with world.client() as chat:
        while chat._budget.spend():
            pass
        world["seoul-1"].hang()
        assert await gap_of_a_send(world, chat, "after") < 2.5
        assert chat.region == "busan"


@virtual
@pytest.mark.parametrize("hedges", [1, 2])
async def test_a_hedge_that_hangs_too_is_no_reason_to_bear_silence_longer(hedges: int) -> None:
    """The first node lost its power unseen, and the Redis of the other region stands still."""
    world = World(nodes=2)
    async with world.client() as chat:
        for _ in range(2 - hedges):
            chat._budget.spend()
        first = chat.node
        world[first].hang()
        for name in ("busan-1", "busan-2"):
            world[name].held_acks = []
        assert await gap_of_a_send(world, chat, "after") < 3
        assert chat.region == "seoul"
        assert chat.node != first


@virtual
async def test_a_hedge_is_told_at_once_what_the_first_acknowledged_before_it_died() -> None:
    world, held = World(), list[Any]()
    async with world.client() as chat:
        world["seoul-1"].held_acks = held
        world["busan-1"].held_acks = []
        posted = await chat.post(ROOM, "acknowledged")
        await chat.post(ROOM, "not")
        await asyncio.sleep(limits.HEDGE_AFTER_S + 0.1)
        hedge, first = world["busan-1"].stream, world["seoul-1"]
        assert hedge.beats == 0
        assert len(held) == 2
        del held[1:]
        first.release_acks()
        first.kill()
        sent = await posted.accepted
        await asyncio.sleep(1)
        assert chat.region == "busan"
        assert world["busan-1"].stream is hedge
        assert hedge.awaited[(sent.origin, sent.shard)] == sent.position


@virtual
async def test_a_slow_region_that_answers_before_the_hedge_is_kept() -> None:
    world = World()
    async with world.client() as chat:
        world["seoul-1"].held_acks = []
        world["busan-1"].held_acks = []
        posted = await chat.post(ROOM, "slow")
        await asyncio.sleep(limits.HEDGE_AFTER_S + 0.1)
        assert world["busan-1"].stream.sends
        world["seoul-1"].release_acks()
        await posted.accepted
        await settle()
        assert chat.region == "seoul"
        assert not world["busan-1"].streams


@virtual
async def test_a_stream_that_takes_over_is_told_what_the_old_one_had_acknowledged_meanwhile() -> None:
    world = World()
    async with world.client() as chat:
        seoul, busan = await hedged(world, chat)
        seoul.release_acks()
        busan.release_acks()
        await settle()
        assert chat.region == "busan"
        assert busan.stream.hello is not None
        assert not wire.decode_vector(busan.stream.hello.awaiting)
        assert seoul.region.origin in busan.stream.awaited.origins()


@virtual
async def test_a_hedge_starts_with_the_whole_outbox_in_order() -> None:
    world = World()
    async with world.client() as chat:
        await chat.send(ROOM, "accepted, not replicated")
        world["seoul-1"].hang()
        posted = [await chat.post(ROOM, text) for text in ("one", "two")]
        await posted[1].accepted
    assert world.busan.texts() == ["accepted, not replicated", "one", "two"]


@virtual
async def test_what_the_new_node_covers_is_not_sent_again() -> None:
    world = World()
    async with world.client() as chat:
        await chat.send(ROOM, "replicated, but not known to be")
        world.busan.applied.merge(world.seoul.applied)
        world["seoul-1"].kill()
        await chat.send(ROOM, "after")
    assert world.busan.texts() == ["after"]


@virtual
async def test_hedges_stay_within_their_share() -> None:
    world = World()
    async with world.client() as chat:
        for n in range(10):
            for node in world.nodes.values():
                node.held_acks = []
            posted = await chat.post(ROOM, str(n))
            await asyncio.sleep(limits.HEDGE_AFTER_S * 1.5)
            world["seoul-1"].release_acks()
            await posted.accepted
            await asyncio.sleep(3)
    assert 1 <= len(world.told(What.HEDGED)) <= 3


@virtual
async def test_a_hedge_stream_takes_over_when_the_first_breaks() -> None:
    world = World()
    async with world.client() as chat:
        for node in world.nodes.values():
            node.held_acks = []
        posted = await chat.post(ROOM, "hello")
        await asyncio.sleep(limits.HEDGE_AFTER_S + 0.1)
        greeted = world["busan-1"].greeted
        world["seoul-1"].kill()
        await settle()
        assert chat.region == "busan"
        world["busan-1"].release_acks()
        await posted.accepted
        assert world["busan-1"].greeted == greeted


@virtual
async def test_goaway_opens_the_next_stream_before_it_leaves() -> None:
    world = World(nodes=2)
    async with world.client() as chat:
        first = chat.node
        world[first].stream.say(go_away=chat_pb2.GoAway(code=chat_pb2.ERROR_CODE_DRAINING))
        await settle()
        assert chat.node != first
        assert not world[first].streams
        await chat.send(ROOM, "after")
    assert not world.told(What.DISCONNECTED)
    assert world.told(What.MOVED)


@virtual
async def test_a_node_that_is_silent_for_too_long_is_left() -> None:
    world = World()
    async with world.client() as chat:
        world["seoul-1"].hang()
        await asyncio.sleep(limits.SUSPECT_S + 2)
        assert chat.region == "busan"


@virtual
async def test_heartbeats_keep_an_idle_stream() -> None:
    world = World()
    async with world.client():
        await asyncio.sleep(10 * limits.HEARTBEAT_S + 1)
        assert world["seoul-1"].stream.beats == 10
    assert world["seoul-1"].greeted == 1


@virtual
async def test_a_node_that_says_no_heartbeats_hears_them_all_the_same() -> None:
    world = World()
    async with world.client():
        stream = world["seoul-1"].stream
        stream.mute = True
        await asyncio.sleep(limits.HEARTBEAT_S + 1)
        assert stream.beats == 1
        await asyncio.sleep(1.5 * limits.HEARTBEAT_S)
        assert stream.beats == 2


@virtual
async def test_a_heartbeat_is_answered_at_once_and_two_in_a_row_with_one() -> None:
    world = World()
    async with world.client():
        stream = world["seoul-1"].stream
        await asyncio.sleep(1)
        assert stream.beats == 0
        for _ in range(2):
            stream.say(heartbeat=chat_pb2.Heartbeat(region_time_ms=1, peers_live=True))
            await asyncio.sleep(1)
        assert stream.beats == 1


@virtual
async def test_home_is_returned_to_only_after_a_while() -> None:
    world = World()
    async with world.client(failback=True) as chat:
        world["seoul-1"].kill()
        await chat.send(ROOM, "away")
        world["seoul-1"].alive = True
        await asyncio.sleep(25)
        assert chat.region == "busan"
        await asyncio.sleep(60)
        assert chat.region == "seoul"
    assert len(world.told(What.DISCONNECTED)) == 1


@virtual
async def test_while_nobody_serves_tries_are_bounded_and_sends_wait_in_order() -> None:
    world = World()
    async with world.client() as chat:
        for node in world.nodes.values():
            node.kill()
        before = sum(node.greeted for node in world.nodes.values())
        posted = [await chat.post(ROOM, text) for text in ("one", "two")]
        await asyncio.sleep(60)
        tries = sum(node.greeted for node in world.nodes.values()) - before
        assert 60 < tries < 160  # two nodes, once in one to two seconds
        world["busan-1"].alive = True
        await posted[1].accepted
    assert world.busan.texts() == ["one", "two"]


@virtual
async def test_a_node_that_is_catching_up_is_passed_over() -> None:
    world = World()
    world["seoul-1"].refuses_hello = Refused(Code.CATCHING_UP, "catching up", 500)
    async with world.client() as chat:
        assert chat.region == "busan"


@virtual
async def test_a_deleted_message_that_an_older_stream_brings_late_is_not_shown() -> None:
    world = World()
    async with world.client() as chat:
        seoul, busan = await hedged(world, chat)
        gone, other = world.message("gone"), world.message("gone in another room", scope=OTHER_ROOM)
        target = Target(BOB, gone.id)
        deletion = wire.encode_event(world.message("")._replace(kind=Kind.DELETION, body=Deletion(target)))
        # Whoever may delete here may not do so elsewhere by naming what is there.
        elsewhere = wire.encode_event(deletion._replace(id=b"2" * 16, body=Deletion(Target(BOB, other.id))))
        busan.deliver(deletion, elsewhere, world.message("an answer to it"))
        assert await take(chat, 1) == ["an answer to it"]
        seoul.deliver(gone, other)
        assert await take(chat, 1) == ["gone in another room"]


@virtual
async def test_deliveries_of_a_new_stream_begin_after_the_last_marker() -> None:
    world = World()
    async with world.client() as chat:
        world["seoul-1"].deliver(world.message("one"))
        await take(chat, 1)
        world.replicate()
        world["seoul-1"].kill()
        await settle()
        await chat.send(ROOM, "there?")
        hello = world["busan-1"].stream.hello
        assert hello is not None
        assert hello.session == chat.session
        key = next(iter(dict(world.seoul.applied)))
        assert wire.decode_vector(hello.have)[key] == 1


@virtual
async def test_an_expired_token_is_replaced_by_the_password() -> None:
    world = World()
    expired = Refused(Code.BAD_TOKEN, "expired")
    world["seoul-1"].refuses_hello = expired
    for node in world.nodes.values():
        node.answers["Refresh"] = expired

    def mend(method: str) -> None:
        if method.endswith("SignIn"):
            world["seoul-1"].refuses_hello = None

    for node in world.nodes.values():
        node.on_call = mend
    async with world.client(handle="alice", password="correct horse"):
        assert world["seoul-1"].stream.token.startswith("token of")


@virtual
async def test_an_overloaded_node_that_then_hangs_is_not_hedged() -> None:
    world = World()
    async with world.client() as chat:
        node = world["seoul-1"]
        node.policy = refuse(Code.OVERLOADED)
        node.held_acks = []
        await chat.post(ROOM, "hello")
        await asyncio.sleep(3)
        assert node.stream.sends[-1].epoch == 2
        assert not world.told(What.HEDGED)


@virtual
async def test_a_region_whose_log_is_full_is_left_at_once() -> None:
    world = World()
    async with world.client() as chat:
        await chat.send(ROOM, "before")
        world["seoul-1"].policy = lambda event: Refused(Code.LOG_FULL, "full", 1000)
        assert await gap_of_a_send(world, chat, "after") < 0.5
        assert chat.region == "busan"
    assert world.busan.texts() == ["before", "after"]


@virtual
async def test_regions_that_are_all_full_are_not_run_to_and_fro() -> None:
    world = World()
    async with world.client() as chat:
        for node in ("seoul-1", "busan-1"):
            world[node].policy = lambda event: Refused(Code.LOG_FULL, "full", 1000)
        greeted = sum(world[node].greeted for node in ("seoul-1", "busan-1"))
        posted = await chat.post(ROOM, "there is room nowhere")
        await asyncio.sleep(20)
        assert sum(world[node].greeted for node in ("seoul-1", "busan-1")) - greeted <= 11
        assert posted.outcome is None
        for node in ("seoul-1", "busan-1"):
            world[node].policy = lambda event: None
        await posted.accepted


@virtual
async def test_nodes_that_answer_late_because_thousands_ask_are_given_more_time() -> None:
    world = World()
    async with world.client() as chat:
        for node in (world["seoul-1"], world["busan-1"]):
            node.hello_delay_s = 3.0
        for stream in [*world["seoul-1"].streams]:
            stream.fail(PeerUnavailable("the region died and came back"))
        await chat.send(ROOM, "at last", timeout=30)
        assert world["seoul-1"].greeted + world["busan-1"].greeted <= 9


@virtual
async def test_who_finds_every_node_too_busy_comes_again_when_it_was_told_to() -> None:
    world = World()
    async with world.client() as chat:
        nodes = world["seoul-1"], world["busan-1"]
        for node in nodes:
            node.refuses_hello = Refused(Code.OVERLOADED, "too many come at once", 4000)
        before = sum(node.greeted for node in nodes)
        for stream in [*world["seoul-1"].streams]:
            stream.fail(PeerUnavailable("the region died"))
        posted = await chat.post(ROOM, "patient")
        await asyncio.sleep(3.9)
        assert sum(node.greeted for node in nodes) - before == 2
        for node in nodes:
            node.refuses_hello = None
        await asyncio.sleep(1.4)
        assert posted.outcome is not None


@virtual
async def test_a_home_that_hangs_is_asked_seldom() -> None:
    world = World()
    async with world.client(failback=True):
        world["seoul-1"].kill()
        await settle()
        await asyncio.sleep(1)
        world["seoul-1"].alive, world["seoul-1"].hung = True, True
        before = world["seoul-1"].greeted
        await asyncio.sleep(300)
        assert 5 <= world["seoul-1"].greeted - before <= 10


@virtual
async def test_an_access_token_is_renewed_before_it_expires() -> None:
    world = World()
    for node in world.nodes.values():
        node.answers["Refresh"] = accounts_pb2.RefreshResponse(token="fresh", token_expires_ms=0)
    expires_s = world.clock.offset_ms // 1000 + 1000 + 100
    claims = base64.urlsafe_b64encode(json.dumps({"exp": expires_s}).encode()).decode().rstrip("=")
    async with world.client(access_token=f"head.{claims}.signature"):
        await asyncio.sleep(70)
        assert not any(node.calls for node in world.nodes.values())
        await asyncio.sleep(15)
        (call,) = [name for node in world.nodes.values() for name, _ in node.calls]
        assert call.endswith("Refresh")
        world["seoul-1"].kill()
        await settle()
        await asyncio.sleep(1)
        assert world["busan-1"].stream.token == "fresh"


@pytest.mark.parametrize("seed", range(5))
def test_whatever_breaks_every_accepted_message_is_in_order_somewhere(seed: int) -> None:
    @virtual
    async def story() -> None:
        world = World(nodes=2)
        chance = SeededIds(seed + 100)
        async with world.client(ids=SeededIds(seed)) as chat:
            posted = []
            for n in range(200):
                posted.append(await chat.post(ROOM, str(n)))
                await asyncio.sleep(chance.random() * 0.05)
                node = list(world.nodes.values())[int(chance.random() * 4)]
                what = chance.random()
                if what < 0.05:
                    node.kill()
                elif what < 0.1:
                    node.hang()
                elif what < 0.4:
                    node.alive = True
                    node.resume()
            for node in world.nodes.values():
                node.alive = True
                node.resume()
            async with asyncio.timeout(120):
                for one in posted:
                    await one.accepted
        for region in (world.seoul, world.busan):
            first_copies = [int(t) for t in dict.fromkeys(region.texts())]
            assert first_copies == sorted(first_copies)
        assert {*world.seoul.texts(), *world.busan.texts()} == {str(n) for n in range(200)}

    story()
