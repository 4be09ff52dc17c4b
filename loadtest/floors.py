"""What the same hops cost bare, on this machine, in the same minute: gRPC, a Redis that fsyncs, SQLite's rows.

python -m loadtest.floors serves the two gRPC floors (port on the first line) until its input ends.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from evertalk.adapters.clock import SystemIds
from evertalk.adapters.redis_common import Command, Link
from evertalk.adapters.redis_server import find_server, server_config
from evertalk.adapters.sqlite_schema import WRITER, prepare
from evertalk.cluster import child, guard, layout, ports
from evertalk.cluster.processes import ping
from loadtest.histogram import Histogram

_ECHO, _PUSH = "/floor/Echo", "/floor/Push"
_CHANNELS, _WINDOW = 16, 16
_PIPELINE = 32
_ROWS = 200
_PAUSE_S = 0.005
_OWN_CHANNEL = [("grpc.use_local_subchannel_pool", 1)]
_START_S = 10.0


async def measure(seconds: float, frame_bytes: int, readers: int, rate: float) -> dict[str, float]:
    """All floors, each for so many seconds.

    Args:
        frame_bytes: of a message on the wire, in the log, and in a row.
        readers, rate: of the paced push: channels, and messages per second of all together.

    Returns:
        {"echo", "push", "xadd", "sqlite"}_cpu_us: server CPU per message; echo_per_s, xadd_per_s, sqlite_per_s;
        xadd_{p50, p99, max}_ms: of one entry at a time, 5 ms apart: what the disk alone does to a latency.
    """
    found = await _grpc(seconds, frame_bytes, readers, rate)
    found |= await _xadd(seconds, frame_bytes)
    found |= await asyncio.to_thread(_sqlite, seconds, frame_bytes)
    return {name: round(value, 2) for name, value in found.items()}


# ---------------------------------------------------------------- gRPC


async def _grpc(seconds: float, frame_bytes: int, readers: int, rate: float) -> dict[str, float]:
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtest.floors",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    try:
        assert server.stdout is not None
        address = f"{ports.HOST}:{int(await server.stdout.readline())}"
        count, cpu, took = await _echo(address, server.pid, seconds, frame_bytes)
        found = {"echo_per_s": count / took, "echo_cpu_us": cpu / count * 1e6}
        if rate:
            count, cpu, took = await _push(address, server.pid, seconds, frame_bytes, readers, rate)
            found |= {"push_per_s": count / took, "push_cpu_us": cpu / count * 1e6}
        return found
    finally:
        server.kill()
        await server.wait()


def _streams(address: str, method: str, number: int) -> tuple[list[grpc.aio.Channel], list[Any]]:
    channels = [grpc.aio.insecure_channel(address, options=_OWN_CHANNEL) for _ in range(number)]
    return channels, [channel.stream_stream(method)() for channel in channels]


async def _echo(address: str, pid: int, seconds: float, size: int) -> tuple[int, float, float]:
    """One message a frame, there and back: (messages, server CPU seconds, seconds)."""
    channels, calls = _streams(address, _ECHO, _CHANNELS)
    payload, counts = secrets.token_bytes(size), [0] * _CHANNELS

    async def one(n: int) -> None:
        for _ in range(_WINDOW):
            await calls[n].write(payload)
        while True:
            await calls[n].read()
            counts[n] += 1
            await calls[n].write(payload)

    tasks = [asyncio.create_task(one(n)) for n in range(_CHANNELS)]
    try:
        return await _span(counts, pid, seconds)
    finally:
        await _end(tasks, channels)


async def _push(
    address: str, pid: int, seconds: float, size: int, readers: int, rate: float
) -> tuple[int, float, float]:
    """Frames that the server pushes at a rate, each on its reader's own channel."""
    channels, calls = _streams(address, _PUSH, readers)
    counts = [0] * readers

    async def one(n: int) -> None:
        await calls[n].write(f"{size} {readers / rate}".encode())
        while True:
            await calls[n].read()
            counts[n] += 1

    tasks = [asyncio.create_task(one(n)) for n in range(readers)]
    try:
        return await _span(counts, pid, seconds)
    finally:
        await _end(tasks, channels)


async def _span(counts: list[int], pid: int, seconds: float) -> tuple[int, float, float]:
    await asyncio.sleep(0.5)  # connected, and warm
    before, cpu, at = sum(counts), child.cpu_s(pid) or 0.0, time.monotonic()
    await asyncio.sleep(seconds)
    return max(1, sum(counts) - before), (child.cpu_s(pid) or 0.0) - cpu, time.monotonic() - at


async def _end(tasks: list[asyncio.Task[None]], channels: list[grpc.aio.Channel]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for channel in channels:
        await channel.close()


async def _serve() -> None:
    async def echo(requests: AsyncIterator[bytes], context: Any) -> None:
        async for raw in requests:
            await context.write(raw)

    async def push(requests: AsyncIterator[bytes], context: Any) -> None:
        size, every_s = (await anext(requests)).split()
        payload, due = bytes(int(size)), time.monotonic() + float(every_s) * secrets.randbelow(1000) / 1000
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await context.write(payload)
            due += float(every_s)

    server = grpc.aio.server()
    handlers = {"Echo": echo, "Push": push}
    rpc: dict[str, Any] = {name: grpc.stream_stream_rpc_method_handler(handler) for name, handler in handlers.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("floor", rpc),))
    print(server.add_insecure_port(f"{ports.HOST}:0"), flush=True)
    await server.start()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(0)


# ---------------------------------------------------------------- Redis and SQLite


async def _xadd(seconds: float, size: int) -> dict[str, float]:
    """Pipelined XADD, one entry a message, with fsync before the replies."""
    program, _ = await asyncio.to_thread(find_server)
    port, password = ports.free_ports(1)[0], secrets.token_urlsafe(16)
    with tempfile.TemporaryDirectory() as place:
        config = Path(place) / "redis.conf"
        layout.write_private(config, server_config(Path(place), port, password, password))
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), "-1", str(program), str(config),
            stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(_START_S):
                while await ping(port, "node", password):  # noqa: ASYNC110  it says so when asked only
                    await asyncio.sleep(0.05)
            link = await Link.open(f"redis://node:{password}@{ports.HOST}:{port}")
            commands = [("XADD", "s", "0-*", "b", secrets.token_bytes(size)) for _ in range(_PIPELINE)]
            cpu, at, count = child.cpu_s(server.pid) or 0.0, time.monotonic(), 0
            while time.monotonic() < at + seconds:
                await link.run(commands)
                count += _PIPELINE
            took, spent = time.monotonic() - at, (child.cpu_s(server.pid) or 0.0) - cpu
            waits = await _one_by_one(link, commands[0], seconds)
            await link.close()
        finally:
            server.kill()
            await server.wait()
    return {"xadd_per_s": count / took, "xadd_cpu_us": spent / count * 1e6, **waits}


async def _one_by_one(link: Link, command: Command, seconds: float) -> dict[str, float]:
    waits, until = Histogram(), time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        await link.run([command])
        waits.record(round((time.monotonic() - began) * 1e6))
        await asyncio.sleep(_PAUSE_S)
    told = waits.in_ms()
    return {f"xadd_{name}_ms": told[name] for name in ("p50", "p99", "max")}


def _sqlite(seconds: float, size: int) -> dict[str, float]:
    """The rows of a message, as the store has them, in transactions of _ROWS messages."""
    ids = SystemIds()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "store.db"
        db = sqlite3.connect(path, isolation_level=None)
        for pragma in WRITER:
            db.execute(pragma)
        prepare(db, path, 4, ids.ulid)
        body, number = secrets.token_bytes(size), 0
        cpu, at = time.thread_time(), time.monotonic()
        while time.monotonic() < at + seconds:
            rows = range(number + 1, number + _ROWS + 1)
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT INTO texts VALUES (?, ?)", [(n, body) for n in rows])
            db.executemany(_INSERT, [(n, n % 50, 16, ids.uuid7() * 2, n, 1, n, n, 0, 0, None, None, n) for n in rows])
            db.execute("COMMIT")
            number += _ROWS
        spent, took = time.thread_time() - cpu, time.monotonic() - at
        db.close()
    return {"sqlite_per_s": number / took, "sqlite_cpu_us": spent / number * 1e6}


_INSERT = """INSERT INTO facts (change, scope, kind, slot, hlc, origin, position, accepted_at, expires_at, marks,
    copies, event, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""


if __name__ == "__main__":
    asyncio.run(_serve())
