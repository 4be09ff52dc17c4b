"""Stories on real processes: a region dies, people go on, it returns."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

import pytest

from evertalk.client import Client, sign_in
from evertalk.core.errors import Code, Refused
from evertalk.core.model import Durability
from tests.e2e.world import PASSWORD, world

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("lose_disks", [False, True], ids=["with its disks", "without its disks"])
async def test_people_go_on_while_a_region_is_dead_and_it_returns_equal(tmp_path: Path, lose_disks: bool) -> None:
    async with (
        world(tmp_path) as w,
        w.friend("anna", "seoul") as anna,
        w.friend("bert", "busan") as bert,
    ):
        talk = await anna.client.direct(bert.account)
        assert talk.durability is Durability.REPLICATED
        kept = await anna.client.send(talk.id, "before", wait_for=Durability.REPLICATED)
        assert kept.durability is Durability.REPLICATED
        await bert.sees("before")

        await w.region("seoul").kill()
        if lose_disks:
            await w.region("seoul").lose_disks()
        await anna.client.send(talk.id, "during")
        await bert.sees("during")
        assert (await sign_in(w.endpoints(), "anna", PASSWORD)).account == anna.account
        async with w.friend("cleo", "seoul") as cleo:
            club = await cleo.client.create_group("made while seoul was down", [anna.account, bert.account])
            await cleo.client.send(club.id, "hello from cleo")
            await anna.sees("hello from cleo")
            await bert.sees("hello from cleo")

        await w.region("seoul").start()
        after = await bert.client.send(talk.id, "after", wait_for=Durability.REPLICATED, timeout=30)
        assert after.durability is Durability.REPLICATED
        await anna.sees("after")
        assert await w.equal()
        assert anna.texts() == ["hello from cleo", "after"]
        page = await bert.client.history(talk.id)
        assert [m.event.body.text for m in page.messages] == ["before", "during", "after"]  # type: ignore[union-attr]
        async with asyncio.timeout(30):
            while not (look := await w.operator.look()).redundancy.whole:
                pass
        assert look.redundancy.reasons == []


async def test_what_a_region_accepted_and_never_replicated_surfaces_late_when_it_returns(tmp_path: Path) -> None:
    async with world(tmp_path) as w, w.friend("bert", "busan") as bert:
        _, token = await w.join("anna", "seoul")
        only_seoul = w.endpoints("seoul", only=True)
        async with Client(only_seoul, region="seoul", access_token=token) as anna:
            talk = await anna.direct(bert.account)
            await anna.send(talk.id, "known", wait_for=Durability.REPLICATED)
            await bert.sees("known")
            await w.cluster.wan.cut("seoul", "busan")
            sent = await anna.send(talk.id, "only in seoul")
            assert sent.durability is Durability.ACCEPTED
        await w.region("seoul").kill()
        said_at, others = time.monotonic(), 0
        while time.monotonic() - said_at < 2.5:  # late means: two seconds after it was accepted
            await bert.client.send(talk.id, "in between", wait_for=Durability.ACCEPTED)
            await asyncio.sleep(0.05)
            others += 1
        assert "only in seoul" not in bert.texts()

        await w.cluster.wan.heal()
        await w.region("seoul").start()
        await bert.sees("only in seoul", 40)
        late = next(a for a in bert.shown if a.event.id == sent.id)
        assert late.late
        assert await w.equal()
        page = await bert.client.history(talk.id, limit=500)
        texts = [m.event.body.text for m in page.messages]  # type: ignore[union-attr]
        wanted = ["known", "only in seoul"] + ["in between"] * others
        assert texts == wanted[-500:]


async def test_a_client_killed_with_its_region_loses_nothing_from_an_outbox_on_disk(tmp_path: Path) -> None:
    async with world(tmp_path / "c") as w, w.friend("bert", "busan") as bert:
        _, token = await w.join("anna", "seoul")
        async with Client(w.endpoints("seoul"), region="seoul", access_token=token) as anna:
            talk = await anna.direct(bert.account)
        await w.cluster.wan.cut("seoul", "busan")  # so that nothing of what follows is replicated
        crash = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.e2e.crashing_client",
            w.endpoints("seoul")[0].address, token, talk.id.hex(), str(tmp_path / "outbox.db"),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert crash.stdout is not None
        said = [(await crash.stdout.readline()).decode().split() for _ in range(20)]
        assert [word for word, _ in said] == ["accepted"] * 20
        crash.send_signal(signal.SIGKILL)
        await crash.wait()
        await w.region("seoul").kill()
        await w.region("seoul").lose_disks()
        assert not bert.texts()

        again = Client(w.endpoints("busan"), region="busan", access_token=token, outbox=tmp_path / "outbox.db")
        async with again:
            await bert.sees("message 19")
        assert bert.texts() == [f"message {n}" for n in range(20)]
        assert [a.event.id.hex() for a in bert.shown if a.event.id.hex() in {i for _, i in said}] == [
            i for _, i in said
        ]


async def test_a_wrong_password_is_definite_and_a_strange_handle_is_not_while_a_region_is_missing(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        await w.join("anna", "seoul")
        with pytest.raises(Refused) as wrong:
            await sign_in(w.endpoints(), "anna", "not the password")
        assert wrong.value.code is Code.BAD_PASSWORD
        with pytest.raises(Refused) as strange:
            await sign_in(w.endpoints(), "nobody", PASSWORD)
        assert strange.value.code is Code.UNKNOWN_ACCOUNT

        await w.region("seoul").kill()
        with pytest.raises(Refused) as wrong:
            await sign_in(w.endpoints("busan"), "anna", "not the password")
        assert wrong.value.code is Code.BAD_PASSWORD
        async with asyncio.timeout(40):  # busan hears of seoul for five more seconds
            while True:
                with pytest.raises(Refused) as strange:
                    await sign_in(w.endpoints("busan"), "nobody", PASSWORD, timeout=4)
                if strange.value.code is Code.NOT_YET:
                    break


async def test_a_drained_node_hands_its_clients_over_and_nothing_is_lost(tmp_path: Path) -> None:
    async with (
        world(tmp_path) as w,
        w.friend("anna", "seoul") as anna,
        w.friend("bert", "busan") as bert,
    ):
        talk = await anna.client.direct(bert.account)
        node = w.cluster.node(anna.client.node)
        sending = [await anna.client.post(talk.id, f"m{n}") for n in range(50)]
        await node.terminate()
        for posted in sending:
            await posted.accepted
        await bert.sees("m49")
        assert bert.texts() == [f"m{n}" for n in range(50)]
        assert anna.client.node != node.name
