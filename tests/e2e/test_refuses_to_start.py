"""A node that cannot serve says why in one sentence and ends; one that only has to wait, waits."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from evertalk.adapters.clock import SystemIds
from evertalk.adapters.grpc_health import NOT_SERVING, SERVING, health
from evertalk.adapters.grpc_transport import GrpcTransport
from evertalk.adapters.sqlite_store import SqliteStore
from evertalk.adapters.tokens import make_keys
from evertalk.client import Client, Endpoint, register
from evertalk.core.errors import Code
from evertalk.core.model import Entry
from tests.adapters.conftest import RedisWorld, free_port
from tests.e2e.raw import Door
from tests.e2e.world import PASSWORD

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

CONFIG, UNAVAILABLE = 78, 69
PATIENCE_S = 30.0  # a start of Python takes a second or two, more on a busy machine
_LOOK_S = 0.02  # between looks at another process
SHARDS = 4


@dataclass
class Site:
    """A region's Redis, claimed for 4 shards, and the keys of its nodes."""

    redis: RedisWorld
    directory: Path

    def env(self, directory: Path) -> dict[str, str]:
        """Settings with which a node serves."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("EVERTALK_")}
        return inherited | {
            "EVERTALK_REGION": "seoul",
            "EVERTALK_REDIS": self.redis.url(),
            "EVERTALK_NODE": "seoul-1",
            "EVERTALK_LISTEN": f"127.0.0.1:{free_port()}",
            "EVERTALK_STORE": str(directory / "store.db"),
            "EVERTALK_KEYS": str(self.directory / "keys"),
        }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    make_keys(directory / "keys", ["seoul"])
    async with AsyncExitStack() as stack:
        (directory / "redis").mkdir()
        redis = RedisWorld(directory / "redis", stack)
        stack.push_async_callback(redis.kill)
        await redis.start()
        await redis.log(shards=SHARDS).claim()
        yield Site(redis, directory)


class NodeProcess:
    """`python -m evertalk.chatnode` with what it writes to stderr."""

    def __init__(self, process: asyncio.subprocess.Process, address: str, errors: Path) -> None:
        self._process = process
        self._errors = errors
        self.address = address

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    def stderr(self) -> str:
        return self._errors.read_text()

    async def ends(self) -> int:
        """Its exit code, once it has ended by itself; fails if it sits down to wait."""
        async with asyncio.timeout(PATIENCE_S):
            while self.alive:
                assert "log unavailable" not in self.stderr(), f"it waits: {self.stderr()}"
                await asyncio.sleep(_LOOK_S)
        return await self._process.wait()

    async def is_(self, state: str) -> None:
        """Until its health is that."""
        async with asyncio.timeout(PATIENCE_S):
            while await health(self.address, 1.0) != state:
                assert self.alive, self.stderr()
                await asyncio.sleep(_LOOK_S)

    async def said(self, event: str) -> None:
        """Until it has logged that."""
        async with asyncio.timeout(PATIENCE_S):
            while event not in self.stderr():
                assert self.alive, self.stderr()
                await asyncio.sleep(_LOOK_S)


@asynccontextmanager
async def node(env: dict[str, str], directory: Path) -> AsyncIterator[NodeProcess]:
    """A node process, killed at the end."""
    errors = directory / "stderr"
    with errors.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "evertalk.chatnode", env=env, stdout=stderr, stderr=stderr
        )
    try:
        yield NodeProcess(process, env.get("EVERTALK_LISTEN", ""), errors)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def refuses(env: dict[str, str], directory: Path, code: int, *words: str) -> str:
    """It ends by itself with that code and one sentence that holds the words; returns what it wrote."""
    async with node(env, directory) as started:
        found = await started.ends()
        written = started.stderr()
    assert "Traceback" not in written, written
    assert found == code, written
    sentences = [line for line in written.splitlines() if line.startswith("chatnode")]
    assert len(sentences) == 1, written
    for word in words:
        assert word in sentences[0], written
    assert "secret" not in written, "a password"
    return written


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize("name", ["REGION", "REDIS", "NODE", "LISTEN", "STORE", "KEYS"])
async def test_a_missing_setting_is_named_as_it_must_be_set(site: Site, tmp_path: Path, name: str) -> None:
    env = site.env(tmp_path)
    del env[f"EVERTALK_{name}"]
    await refuses(env, tmp_path, CONFIG, f"EVERTALK_{name}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PEERS", "not json"),
        ("PEERS", '{"busan": "redis://peer:peer-secret@10.0.0.1:6379"}'),
        ("SHARDS", "many"),
        ("SHARDS", "0"),
        ("LOG_LEVEL", "loud"),
        ("REDIS", "http://node:node-secret@10.0.0.1"),
        ("REDIS", "redis://node:node-secret@10.0.0.1:port"),
    ],
)
async def test_a_setting_that_makes_no_sense_is_named_and_no_password_shown(
    site: Site, tmp_path: Path, name: str, value: str
) -> None:
    await refuses(site.env(tmp_path) | {f"EVERTALK_{name}": value}, tmp_path, CONFIG, f"EVERTALK_{name}")


# ---------------------------------------------------------------- what it finds on its machine


async def test_a_port_in_use(site: Site, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        await refuses(site.env(tmp_path) | {"EVERTALK_LISTEN": address}, tmp_path, UNAVAILABLE, address, "in use")


async def test_no_keys(site: Site, tmp_path: Path) -> None:
    env = site.env(tmp_path) | {"EVERTALK_KEYS": str(tmp_path / "nowhere")}
    await refuses(env, tmp_path, UNAVAILABLE, str(tmp_path / "nowhere"))


@pytest.mark.parametrize("text", ["{", "{}", "[]", "null"])
async def test_keys_that_are_none(site: Site, tmp_path: Path, text: str) -> None:
    for name in ("seoul.private.json", "public.json"):
        (tmp_path / name).write_text(text)
    await refuses(site.env(tmp_path) | {"EVERTALK_KEYS": str(tmp_path)}, tmp_path, UNAVAILABLE, "seoul.private.json")


async def test_a_store_that_is_garbage_is_built_anew_and_the_node_says_so(site: Site, tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"this is no database, it only lies where one should be" * 100)
    async with node(site.env(tmp_path), tmp_path) as started:
        await started.is_(SERVING)
        assert str(tmp_path / "store.db") in started.stderr()
        assert "damaged" in started.stderr()


async def test_a_database_of_somebody_else_is_left_alone(site: Site, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "store.db") as db:
        db.execute("CREATE TABLE diary (day, text)")
    db.close()
    await refuses(site.env(tmp_path), tmp_path, UNAVAILABLE, str(tmp_path / "store.db"), "no Evertalk store")
    with sqlite3.connect(tmp_path / "store.db") as db:
        assert [name for (name,) in db.execute("SELECT name FROM sqlite_schema")] == ["diary"]
    db.close()


async def test_a_store_in_a_folder_that_is_not_there(site: Site, tmp_path: Path) -> None:
    env = site.env(tmp_path) | {"EVERTALK_STORE": str(tmp_path / "nowhere" / "store.db")}
    await refuses(env, tmp_path, UNAVAILABLE, str(tmp_path / "nowhere" / "store.db"))


async def test_a_store_of_another_number_of_shards(site: Site, tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db", SystemIds(), 8)
    await store.apply([Entry("seoul-01A", 0, 1, ())], 0)
    await store.close()
    await refuses(site.env(tmp_path), tmp_path, UNAVAILABLE, str(tmp_path / "store.db"), "8 shards", "has 4")


# ---------------------------------------------------------------- the Redis that it finds


async def test_another_number_of_shards_than_the_cluster_was_made_with(site: Site, tmp_path: Path) -> None:
    env = site.env(tmp_path) | {"EVERTALK_SHARDS": "8"}
    await refuses(env, tmp_path, UNAVAILABLE, "4 shards", "set to 8", "EVERTALK_SHARDS=4")
    async with node(site.env(tmp_path), tmp_path) as corrected:  # does as it was told, and serves
        await corrected.is_(SERVING)


async def test_a_redis_of_another_region(site: Site, tmp_path: Path) -> None:
    make_keys(tmp_path / "keys", ["busan"])
    env = site.env(tmp_path) | {"EVERTALK_REGION": "busan", "EVERTALK_KEYS": str(tmp_path / "keys")}
    await refuses(env, tmp_path, UNAVAILABLE, "'seoul'", "'busan'", "EVERTALK_REDIS")


@pytest.mark.parametrize(
    ("name", "unsafe", "safe"),
    [
        ("appendonly", "no", "yes"),
        ("appendfsync", "everysec", "always"),
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
    ],
)
async def test_a_redis_that_forgets_what_it_acknowledged(
    site: Site, tmp_path: Path, name: str, unsafe: str, safe: str
) -> None:
    await site.redis.misconfigure(name, unsafe)
    try:
        await refuses(site.env(tmp_path), tmp_path, UNAVAILABLE, f"'{name} {unsafe}'", f"set '{name} {safe}'")
    finally:
        await site.redis.misconfigure(name, safe)


async def test_a_redis_that_refuses_the_password(site: Site, tmp_path: Path) -> None:
    env = site.env(tmp_path) | {"EVERTALK_REDIS": site.redis.url().replace("node-secret", "old-password")}
    written = await refuses(env, tmp_path, UNAVAILABLE, f"127.0.0.1:{site.redis.port}", "password")
    assert "old-password" not in written


# ---------------------------------------------------------------- what it waits for


@contextmanager
def taken(port: int) -> Iterator[None]:
    """A port that nobody answers on, and that nobody else gets."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", port))
        yield


async def test_a_redis_that_is_not_there_yet_is_waited_for(site: Site, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        late = RedisWorld(tmp_path, stack)
        stack.push_async_callback(late.kill)
        env = site.env(tmp_path) | {"EVERTALK_REDIS": late.url()}
        async with node(env, tmp_path) as waiting:
            with taken(late.port):
                await waiting.said("log unavailable")
                await waiting.is_(NOT_SERVING)
            await late.start()
            await waiting.is_(SERVING)
            made = await register([Endpoint("seoul", waiting.address)], "anna", PASSWORD)
            assert made.token
            assert "Traceback" not in waiting.stderr()


async def test_a_redis_without_memory_refuses_sends_and_the_node_lives_on(site: Site, tmp_path: Path) -> None:
    async with node(site.env(tmp_path), tmp_path) as serving:
        await serving.is_(SERVING)
        here = [Endpoint("seoul", serving.address)]
        anna = await register(here, "anna", PASSWORD)
        door = Door(GrpcTransport(), serving.address)
        async with Client(here, access_token=anna.token) as client, door.session(anna.token, anna.account) as raw:
            room = (await client.create_group("tea", [])).id
            await site.redis.fill()
            try:
                refused = await raw.refused(raw.message(room, "one too many"))
                assert refused.code is Code.LOG_FULL
                assert "out of memory" in refused.sentence
                assert refused.retry_after_ms > 0
                kept = await client.post(room, "the outbox keeps this one")
                assert len((await client.history(room)).messages) == 0  # who only reads is served
                await serving.is_(SERVING)
            finally:
                await site.redis.drain()
            await raw.accepted(raw.message(room, "there is room again"))
            assert (await kept.accepted).position > 0
        assert serving.alive
        assert "Traceback" not in serving.stderr()


async def test_a_full_redis_is_claimed_all_the_same_and_reads_are_served(site: Site, tmp_path: Path) -> None:
    origin = await site.redis.log(shards=SHARDS).claim()
    await site.redis.fill()
    try:
        async with node(site.env(tmp_path), tmp_path) as started:
            await started.is_(SERVING)
            claimed = [json.loads(line) for line in started.stderr().splitlines() if '"claimed"' in line]
            assert [line["origin"] for line in claimed] == [origin]
    finally:
        await site.redis.drain()
