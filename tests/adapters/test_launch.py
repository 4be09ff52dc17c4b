"""How a process starts: settings from the environment and from a directory of secrets, and how it hears of changes."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from evertalk.adapters import launch
from evertalk.adapters.grpc_server import HealthServer
from evertalk.adapters.launch import BadSettings, follow, load, until_changed
from evertalk.adapters.probe import main as probe
from evertalk.adapters.settings import NodeSettings, ReplicatorSettings
from evertalk.cluster.layout import write_private
from evertalk.cluster.ports import free_ports

REDIS = "redis://node:sesame@seoul-redis:6379"
PEERS = {"busan": {"redis": "redis://peer:p@seoul-wan:7210", "nodes": {"busan-1": "seoul-wan:7211"}}}


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of secrets beside an environment that holds none."""
    for name in [name for name in os.environ if name.startswith("EVERTALK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EVERTALK_SECRETS", str(tmp_path))
    monkeypatch.setenv("EVERTALK_REGION", "seoul")
    (tmp_path / "evertalk_redis").write_text(REDIS)
    (tmp_path / "evertalk_peers").write_text(json.dumps(PEERS))
    (tmp_path / "passwords.json").write_text("{}")
    return tmp_path


# ---------------------------------------------------------------- settings


@pytest.mark.usefixtures("secrets")
def test_what_the_environment_lacks_is_taken_from_the_directory_of_secrets() -> None:
    settings = load(ReplicatorSettings)
    assert settings.redis == REDIS
    assert settings.peers["busan"].redis == "redis://peer:p@seoul-wan:7210"
    assert settings.peers["busan"].nodes == {"busan-1": "seoul-wan:7211"}


@pytest.mark.usefixtures("secrets")
def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERTALK_REDIS", "redis://node:other@elsewhere:6379")
    settings = load(ReplicatorSettings)
    assert settings.redis == "redis://node:other@elsewhere:6379"
    assert list(settings.peers) == ["busan"]


def test_a_directory_that_is_not_there_is_named(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERTALK_SECRETS", str(secrets / "nowhere"))
    with pytest.raises(BadSettings, match=r"EVERTALK_SECRETS: there is no directory .*nowhere"):
        load(ReplicatorSettings)


def test_a_wrong_setting_is_named_and_its_value_never_shown(secrets: Path) -> None:
    (secrets / "evertalk_redis").write_text("sesame")
    with pytest.raises(BadSettings) as wrong:
        load(ReplicatorSettings)
    assert "EVERTALK_REDIS" in str(wrong.value)
    assert "sesame" not in str(wrong.value)

    (secrets / "evertalk_redis").write_text(REDIS)
    (secrets / "evertalk_peers").write_text('{"busan": "sesame')
    with pytest.raises(BadSettings) as wrong:
        load(ReplicatorSettings)
    assert "EVERTALK_PEERS: it is not the JSON that it should be" in str(wrong.value)
    assert "sesame" not in str(wrong.value)


@pytest.mark.usefixtures("secrets")
def test_everything_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(BadSettings) as wrong:
        load(NodeSettings)
    for name in ("EVERTALK_NODE", "EVERTALK_LISTEN", "EVERTALK_STORE", "EVERTALK_KEYS"):
        assert name in str(wrong.value)


# ---------------------------------------------------------------- changes


@pytest.fixture
def busy_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at every turn of the loop."""
    monkeypatch.setattr(launch, "_LOOK_S", 0.0)


async def many_looks() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


@asynccontextmanager
async def watching() -> AsyncIterator[asyncio.Task[None]]:
    """Somebody has taken in what there is, and waits for a change."""
    if "EVERTALK_SECRETS" in os.environ:
        load(ReplicatorSettings)
    task = asyncio.create_task(until_changed())
    await many_looks()
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.usefixtures("busy_looks")
async def test_a_changed_secret_is_noticed_and_the_same_one_written_again_is_not(secrets: Path) -> None:
    async with watching() as waits:
        write_private(secrets / "evertalk_peers", json.dumps(PEERS))
        write_private(secrets / "wan.json", "{}")  # no setting of this process
        await many_looks()
        assert not waits.done()
        write_private(secrets / "evertalk_peers", json.dumps({**PEERS, "jeju": PEERS["busan"]}))
        await asyncio.wait_for(waits, 10)
    assert set(load(ReplicatorSettings).peers) == {"busan", "jeju"}


@pytest.mark.usefixtures("busy_looks")
async def test_a_secret_that_is_added_is_noticed(secrets: Path) -> None:
    async with watching() as waits:
        write_private(secrets / "evertalk_copies", "2")
        await asyncio.wait_for(waits, 10)


@pytest.mark.usefixtures("busy_looks")
async def test_a_secret_is_noticed_only_when_it_is_whole(secrets: Path) -> None:
    fresh = secrets / "evertalk_peers.new"  # as write_private does it
    async with watching() as waits:
        fresh.write_text('{"busan": ')
        await many_looks()
        assert not waits.done()
        fresh.write_text("{}")
        fresh.replace(secrets / "evertalk_peers")
        await asyncio.wait_for(waits, 10)


@pytest.mark.usefixtures("busy_looks")
async def test_without_a_directory_nothing_ever_changes(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERTALK_SECRETS")
    async with watching() as waits:
        write_private(secrets / "evertalk_peers", "{}")
        await many_looks()
        assert not waits.done()


# ---------------------------------------------------------------- the health check of a container


async def test_a_probe_is_content_only_with_one_that_serves(capsys: pytest.CaptureFixture[str]) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    assert await asyncio.to_thread(probe, [address]) == 1
    server = HealthServer(address)
    await server.start()
    try:
        assert await asyncio.to_thread(probe, [address]) == 1
        await server.health(True)
        assert await asyncio.to_thread(probe, [address]) == 0
    finally:
        await server.stop()
    assert capsys.readouterr().out.split() == ["unreachable", "NOT_SERVING", "SERVING"]
    assert probe([]) == 2


@pytest.mark.usefixtures("busy_looks")
async def test_a_change_between_loading_and_waiting_is_noticed(secrets: Path) -> None:
    load(ReplicatorSettings)
    write_private(secrets / "evertalk_peers", json.dumps({**PEERS, "jeju": PEERS["busan"]}))
    await asyncio.wait_for(until_changed(), 10)


@pytest.mark.usefixtures("busy_looks")
async def test_a_change_that_cannot_be_used_is_tried_again_until_it_can(secrets: Path) -> None:
    """The peer is there before its key: no second change of the settings comes when the key does."""
    load(ReplicatorSettings)
    key = secrets.parent / "key"
    tried, taken = asyncio.Event(), asyncio.Event()

    def take() -> None:
        tried.set()
        peers = load(ReplicatorSettings).peers
        if not key.exists():
            raise BadSettings("the key is not there yet")
        assert "jeju" in peers
        taken.set()

    task = asyncio.create_task(follow(take))
    write_private(secrets / "evertalk_peers", json.dumps({**PEERS, "jeju": PEERS["busan"]}))
    await asyncio.wait_for(tried.wait(), 10)
    await many_looks()
    assert not taken.is_set()
    assert not task.done()
    key.touch()
    await asyncio.wait_for(taken.wait(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
