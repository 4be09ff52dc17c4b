"""The WAN proxy: what it delays, narrows, cuts and swallows, and what it never does: reorder, or grow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from evertalk.cluster.ports import HOST, free_ports
from evertalk.wan import lane
from evertalk.wan.control import WanError, ask, serve_control
from evertalk.wan.lane import Quality
from evertalk.wan.proxy import LinkConfig, Proxy

READ = 256 * 1024  # the most that asyncio reads at once


class Target:
    """A server in the other region: echoes, and can be told to stall, to break off or to go."""

    def __init__(self) -> None:
        self.port = 0
        self.reading = asyncio.Event()
        self.reading.set()
        self.accepted = asyncio.Event()
        self.received = bytearray()
        self.writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def die(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.accepted.set()
        try:
            while True:
                await self.reading.wait()
                data = await reader.read(READ)
                if not data:
                    break
                self.received += data
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            self.received += b"|broken"
        finally:
            writer.close()


class Wan:
    """A proxy between seoul and busan, with an echoing target on each side."""

    def __init__(self, proxy: Proxy, ports: dict[str, int], targets: dict[str, Target]) -> None:
        self.proxy, self.ports, self.targets = proxy, ports, targets
        self._open: list[asyncio.StreamWriter] = []

    async def dial(self, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """From `source` to the target in the other region."""
        reader, writer = await asyncio.open_connection(HOST, self.ports[source])
        self._open.append(writer)
        return reader, writer

    def close(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    def way(self, source: str, name: str) -> dict[str, Any]:
        found = next(link for link in self.proxy.stats() if link["name"] == f"from-{source}")
        way: dict[str, Any] = found[name]
        return way

    def connections(self, source: str) -> int:
        return int(next(link for link in self.proxy.stats() if link["name"] == f"from-{source}")["connections"])


@asynccontextmanager
async def running(quality: Quality | None = None) -> AsyncIterator[Wan]:
    targets = {"seoul": Target(), "busan": Target()}
    for target in targets.values():
        await target.start()
    listen = dict(zip(("seoul", "busan"), free_ports(2), strict=True))
    links = [
        LinkConfig(f"from-{a}", a, b, f"{HOST}:{listen[a]}", f"{HOST}:{targets[b].port}")
        for a, b in (("seoul", "busan"), ("busan", "seoul"))
    ]
    async with Proxy(links, quality or Quality(delay_ms=0), seed=1) as proxy:
        wan = Wan(proxy, listen, targets)
        yield wan
        wan.close()
    for target in targets.values():
        target.die()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something is so; the test's timeout is the deadline."""
    while not condition():  # noqa: ASYNC110 - what is waited for is on the far side of a socket
        await asyncio.sleep(0.001)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes = b"ping") -> bytes:
    writer.write(data)
    return await reader.readexactly(len(data))


async def ended(reader: asyncio.StreamReader) -> bool:
    """True once the connection has ended, orderly or not."""
    try:
        return await reader.read(1) == b""
    except ConnectionResetError:
        return True


# ---------------------------------------------------------------- delay


async def test_a_round_trip_takes_at_least_both_delays() -> None:
    async with running(Quality(delay_ms=30)) as wan:
        reader, writer = await wan.dial("seoul")
        loop = asyncio.get_running_loop()
        start = loop.time()
        assert await echo(reader, writer) == b"ping"
        assert loop.time() - start >= 0.06
        wan.proxy.change({"delay_ms": 60}, source="busan", sink="seoul")  # the way back only
        start = loop.time()
        await echo(reader, writer)
        assert loop.time() - start >= 0.09


async def test_delay_costs_no_throughput() -> None:
    async with running(Quality(delay_ms=30)) as wan:
        finished: list[str] = []

        async def many_chunks_at_once() -> None:
            reader, writer = await wan.dial("seoul")
            for _ in range(100):
                writer.write(b"chunk")
                await asyncio.sleep(0)  # each is read and queued on its own
            await reader.readexactly(500)
            finished.append("100 chunks under way together")

        async def ten_round_trips() -> None:
            reader, writer = await wan.dial("seoul")
            for _ in range(10):
                await echo(reader, writer)
            finished.append("10 round trips")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ten_round_trips())
            tasks.create_task(many_chunks_at_once())
        assert finished == ["100 chunks under way together", "10 round trips"]


async def test_jitter_never_reorders() -> None:
    async with running(Quality(delay_ms=1, jitter_ms=10)) as wan:
        reader, writer = await wan.dial("seoul")
        numbers = b"".join(number.to_bytes(4, "big") for number in range(500))
        for start in range(0, len(numbers), 4):
            writer.write(numbers[start : start + 4])
            await asyncio.sleep(0)
        assert await reader.readexactly(len(numbers)) == numbers
        assert bytes(wan.targets["busan"].received) == numbers


async def test_a_narrow_way_is_as_narrow_as_it_says_for_all_its_connections_together() -> None:
    async with running() as wan:
        wan.proxy.change({"bytes_per_s": 100_000}, source="seoul", sink="busan")
        one, two = await wan.dial("seoul"), await wan.dial("seoul")
        loop = asyncio.get_running_loop()
        start = loop.time()
        await asyncio.gather(echo(*one, b"x" * 10_000), echo(*two, b"y" * 10_000))
        assert loop.time() - start >= 0.2
        writer = one[1]
        writer.write(b"z" * 10_000_000)  # would take 100 s
        await until(lambda: wan.way("seoul", "there")["pending"] > 1_000_000)
        wan.proxy.heal()
        assert await one[0].readexactly(10_000_000) == b"z" * 10_000_000


# ---------------------------------------------------------------- cut


async def test_a_cut_resets_what_lives_and_refuses_what_comes() -> None:
    async with running() as wan:
        reader, writer = await wan.dial("seoul")
        await echo(reader, writer)
        wan.proxy.change({"state": "cut"}, source="seoul", sink="busan")
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        assert await ended((await wan.dial("seoul"))[0])
        await until(lambda: bytes(wan.targets["busan"].received).endswith(b"|broken"))

        wan.proxy.heal()
        assert await echo(*await wan.dial("seoul")) == b"ping"


async def test_a_cut_in_one_direction_leaves_the_other_side_its_connections() -> None:
    async with running() as wan:
        from_busan = await wan.dial("busan")
        await echo(*from_busan)
        wan.proxy.change({"state": "cut"}, source="seoul", sink="busan")
        assert await ended((await wan.dial("seoul"))[0])
        assert await echo(*from_busan) == b"ping"
        assert await echo(*await wan.dial("busan")) == b"ping"


# ---------------------------------------------------------------- black hole


async def test_a_black_hole_is_silent_and_what_lost_bytes_is_reset_when_it_heals() -> None:
    async with running() as wan:
        victim, idle, witness = await wan.dial("seoul"), await wan.dial("seoul"), await wan.dial("busan")
        for connection in (victim, idle, witness):
            await echo(*connection, b"before")
        wan.proxy.change({"state": "black_hole"}, link="from-seoul")
        victim[1].write(b"lost")
        newcomer = await wan.dial("seoul")
        newcomer[1].write(b"lost too")
        await until(lambda: wan.way("seoul", "there")["swallowed"] == len(b"lost" + b"lost too"))
        for _ in range(10):
            await echo(*witness)
        assert b"lost" not in wan.targets["busan"].received
        assert not victim[0].at_eof()
        assert not newcomer[0].at_eof()

        wan.proxy.heal()
        assert await ended(victim[0])
        assert await ended(newcomer[0])
        assert await echo(*idle, b"after") == b"after"  # nothing of it was lost
        assert await echo(*await wan.dial("seoul")) == b"ping"


async def test_only_the_replies_are_lost() -> None:
    async with running() as wan:
        reader, writer = await wan.dial("seoul")
        await echo(reader, writer)
        wan.proxy.change({"state": "black_hole"}, source="busan", sink="seoul")
        writer.write(b"heard")
        await until(lambda: b"heard" in wan.targets["busan"].received)
        await until(lambda: wan.way("seoul", "back")["swallowed"] == len(b"heard"))
        assert not reader.at_eof()


async def test_the_death_of_the_target_stays_unknown_in_a_black_hole() -> None:
    async with running() as wan:
        reader, writer = await wan.dial("seoul")
        witness = await wan.dial("busan")
        await echo(reader, writer)
        wan.proxy.change({"state": "black_hole"}, link="from-seoul")
        wan.targets["busan"].die()
        for _ in range(10):
            await echo(*witness)
        assert not reader.at_eof()
        wan.proxy.heal()
        assert await ended(reader)


@pytest.mark.parametrize("way", ["there", "back", None])
async def test_clients_that_give_up_in_a_black_hole_leave_nothing_behind(way: str | None) -> None:
    async with running() as wan:
        wan.proxy.change({"state": "black_hole"}, link="from-seoul", way=way)
        for _ in range(50):
            _, writer = await wan.dial("seoul")
            writer.write(b"hello?")
            await writer.drain()
            writer.close()
        await until(lambda: wan.connections("seoul") == 0)


# ---------------------------------------------------------------- death of the target


async def test_the_death_of_the_target_closes_the_client() -> None:
    async with running() as wan:
        reader, writer = await wan.dial("seoul")
        await echo(reader, writer)
        wan.targets["busan"].die()
        assert await ended(reader)
        assert await ended((await wan.dial("seoul"))[0])  # nobody listens there any more
        wan.close()
        await until(lambda: wan.connections("seoul") == 0)

        await wan.targets["busan"].start()
        assert await echo(*await wan.dial("seoul")) == b"ping"


async def test_an_orderly_end_comes_after_the_last_byte() -> None:
    async with running(Quality(delay_ms=5, jitter_ms=5)) as wan:
        reader, writer = await wan.dial("seoul")
        writer.write(b"x" * 100_000)
        writer.write_eof()
        assert await reader.read() == b"x" * 100_000
        await until(lambda: wan.connections("seoul") == 0)


# ---------------------------------------------------------------- bounds


async def test_a_stalled_reader_stops_the_writer_and_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "LANE_CAP", 128 * 1024)
    async with running() as wan:
        target = wan.targets["busan"]
        target.reading.clear()
        reader, writer = await wan.dial("seoul")
        total, most = 32 * 1024 * 1024, 0
        writer.write(b"x" * total)
        await until(lambda: wan.way("seoul", "there")["pending"] > lane.LANE_CAP)

        for _ in range(1000):  # it would go on reading, if it did
            await asyncio.sleep(0)
            most = max(most, wan.way("seoul", "there")["pending"])
        assert lane.LANE_CAP < most <= lane.LANE_CAP + READ
        assert len(target.received) < total

        target.reading.set()
        assert await reader.readexactly(total) == b"x" * total


async def test_a_reset_reaches_even_a_client_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "LANE_CAP", 64 * 1024)
    async with running() as wan:
        reader, writer = await wan.dial("seoul")
        await echo(reader, writer)
        transport = writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        wan.targets["busan"].writers[0].write(b"x" * 64 * 1024 * 1024)
        await until(lambda: wan.way("seoul", "back")["pending"] > lane.LANE_CAP)
        writer.write(b"unread")
        wan.targets["busan"].die()
        await until(lambda: wan.connections("seoul") <= 1)
        transport.resume_reading()
        while not await ended(reader):
            await reader.read(READ)
        await until(lambda: wan.connections("seoul") == 0)


# ---------------------------------------------------------------- control


async def test_the_control_port_sets_and_tells() -> None:
    port = free_ports(1)[0]
    async with running() as wan:
        control = await serve_control(wan.proxy, f"{HOST}:{port}")
        try:
            done = await ask(f"{HOST}:{port}", {"do": "set", "from": "seoul", "to": "busan", "state": "cut"})
            assert done["changed"] == 1
            assert await ended((await wan.dial("seoul"))[0])
            await ask(f"{HOST}:{port}", {"do": "heal"})
            await echo(*await wan.dial("seoul"), b"12345")
            links = {link["name"]: link for link in (await ask(f"{HOST}:{port}", {"do": "stats"}))["links"]}
            assert links["from-seoul"]["there"]["bytes"] == links["from-seoul"]["back"]["bytes"] == 5
            assert links["from-busan"]["there"]["bytes"] == 0
        finally:
            control.close()


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        ({"do": "set", "from": "atlantis", "delay_ms": 1}, "no link matches"),
        ({"do": "set", "delay_ms": -1}, "delay_ms"),
        ({"do": "set", "delay_ms": "1"}, "delay_ms"),
        ({"do": "set", "state": "ajar"}, "ajar"),
        ({"do": "set", "colour": "red"}, "colour"),
        ({"do": "dance"}, "dance"),
        ([], "JSON object"),
    ],
)
async def test_the_control_port_refuses_by_name(request_: Any, complaint: str) -> None:
    port = free_ports(1)[0]
    async with running() as wan:
        control = await serve_control(wan.proxy, f"{HOST}:{port}")
        try:
            with pytest.raises(WanError, match=complaint):
                await ask(f"{HOST}:{port}", request_)
        finally:
            control.close()


async def test_a_taken_port_is_named() -> None:
    async with running() as wan:
        taken = f"{HOST}:{wan.ports['seoul']}"
        with pytest.raises(OSError, match=r"link twice cannot listen on"):
            async with Proxy([LinkConfig("twice", "a", "b", taken, taken)]):
                pass
