"""A cluster of real processes: that it starts, that each fault does what it says, and that nothing is left over."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from evertalk.adapters.grpc_health import SERVING, UNREACHABLE, health
from evertalk.adapters.tokens import Keyring
from evertalk.cluster import guard, layout, ports
from evertalk.cluster.layout import Options
from evertalk.cluster.local import load_cluster
from evertalk.cluster.ports import HOST
from evertalk.cluster.processes import ProcessCluster, ping
from evertalk.cluster.verbs import Cluster, ClusterError
from tests.cluster.stubs import stub_command

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs pidfd")


@asynccontextmanager
async def small(directory: Path, **options: Any) -> AsyncIterator[ProcessCluster]:
    """Two regions of one stub each, with real Redis servers and a real WAN proxy."""
    async with await ProcessCluster.create(
        directory,
        nodes_per_region=1,
        options=Options(**options),
        commands=stub_command,
    ) as cluster:
        yield cluster


def pids(cluster: ProcessCluster) -> dict[str, int]:
    return {each.name: each.pid for each in cluster.processes if each.pid is not None}


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def state(pid: int) -> str:
    """R, S, T … as in /proc."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def ends(pid: int) -> None:
    """Wait for the end of a process that is not our child."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    done = asyncio.Event()
    asyncio.get_running_loop().add_reader(fd, done.set)
    try:
        await done.wait()
    finally:
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)


@asynccontextmanager
async def gate() -> AsyncIterator[tuple[str, asyncio.Queue[asyncio.StreamReader]]]:
    """An address where stubs announce themselves, and the connections they hold for life."""
    came: asyncio.Queue[asyncio.StreamReader] = asyncio.Queue()
    writers: list[asyncio.StreamWriter] = []

    def arrived(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        came.put_nowait(reader)

    server = await asyncio.start_server(arrived, HOST, 0)
    try:
        yield f"{HOST}:{server.sockets[0].getsockname()[1]}", came
    finally:
        server.close()
        for writer in writers:
            writer.close()


# ---------------------------------------------------------------- start


async def test_a_cluster_starts_serves_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async with small(tmp_path) as cluster:
        as_protocol: Cluster = cluster
        assert set(as_protocol.regions) == {"seoul", "busan"}
        started = pids(cluster)
        assert set(started) == {
            "wan",
            *("seoul-redis", "seoul-replicator", "seoul-1"),
            *("busan-redis", "busan-replicator", "busan-1"),
        }
        found = load_cluster(tmp_path)
        assert found == cluster.file
        assert {each.name: each.pid for each in found.processes} == started
        assert await health(found.nodes["seoul-1"].address, 5) == SERVING
        assert set(cluster.rss()) == set(cluster.cpu_s()) == set(started)
        assert (tmp_path / "seoul" / "seoul-1.log").read_text().startswith("stub for seoul-1")
        assert not cluster.fallen
    assert not any(runs(pid) for pid in started.values())
    assert all(ports.port_is_free(port) for each in cluster.processes for port in each.spec.ports)
    with pytest.raises(ClusterError, match="no cluster runs in"):
        load_cluster(tmp_path)


def test_each_region_holds_only_its_own_secrets(tmp_path: Path) -> None:
    plan = layout.plan(tmp_path, ["seoul", "busan"], 2, 4, 0, Options())
    layout.write(plan)
    assert [path.name for path in tmp_path.rglob("*.private.json") if "busan" in str(path.parent)] == [
        "busan.private.json"
    ]
    token, _ = Keyring(plan.regions["seoul"].keys, "seoul").mint("ops", "cluster", 0)
    assert Keyring(plan.regions["busan"].keys, "busan").verify(token, 0, "cluster").subject == "ops"
    secret = set(plan.regions["seoul"].passwords.values())
    assert len(secret) == 3
    for path in (each for each in tmp_path.rglob("*") if each.is_file()):
        if any(password in path.read_text() for password in secret) or "private" in path.name:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    again = layout.plan(tmp_path, ["seoul", "busan"], 2, 4, 0, Options())
    assert again.regions["seoul"].passwords == plan.regions["seoul"].passwords


def test_peers_are_reached_through_the_wan_only(tmp_path: Path) -> None:
    plan = layout.plan(tmp_path, ["seoul", "busan", "jeju"], 2, 4, 0, Options())
    peers = json.loads(layout.node_env(plan, plan.regions["seoul"].nodes["seoul-1"])["EVERTALK_PEERS"])
    assert set(peers) == {"busan", "jeju"}
    links = {str(link.port): link for link in plan.links if link.from_region == "seoul"}
    for name, peer in peers.items():
        addresses = {"redis": peer["redis"], **peer["nodes"]}
        assert set(addresses) == {"redis", f"{name}-1", f"{name}-2"}
        assert peer["redis"].startswith("redis://peer:")
        for service, address in addresses.items():
            link = links[address.rpartition(":")[2]]
            assert (link.to_region, link.service) == (name, service)


async def test_a_process_that_fails_to_start_is_named_with_its_last_words(tmp_path: Path) -> None:
    failing = {"busan": {"STUB_FAIL": "1"}}
    with pytest.raises(ClusterError) as caught:
        async with small(tmp_path, region_env=failing):
            pass
    assert "busan-" in str(caught.value)
    assert "exit code 1" in str(caught.value)
    assert "the stub was told to fail" in str(caught.value)
    assert "seoul" not in str(caught.value).replace(str(tmp_path), "")


async def test_a_process_that_never_gets_ready_is_named_at_the_deadline(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"(-1|-replicator) was not ready after 3 s \(its health is NOT_SERVING\)"):
        async with small(tmp_path, env={"STUB_MUTE": "1"}, start_timeout_s=3):
            pass


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    async with small(tmp_path) as cluster:
        node = cluster.node("seoul-1")
        await node.kill()
        squatter = await asyncio.start_server(lambda *_: None, HOST, node.spec.ports[0])
        with pytest.raises(ClusterError, match=f"seoul-1 cannot start: its port {node.spec.ports[0]} is taken"):
            await node.start()
        squatter.close()
        await squatter.wait_closed()
        await node.start()


async def test_a_directory_has_one_cluster_at_a_time(tmp_path: Path) -> None:
    async with small(tmp_path) as cluster:
        before = pids(cluster)
        with pytest.raises(ClusterError, match="already"):
            async with small(tmp_path):
                pass
        assert load_cluster(tmp_path) == cluster.file
        assert pids(cluster) == before


# ---------------------------------------------------------------- faults


async def test_a_killed_region_leaves_no_process_and_returns_on_its_ports(tmp_path: Path) -> None:
    async with small(tmp_path) as cluster:
        busan = cluster.region("busan")
        before = {name: pid for name, pid in pids(cluster).items() if name.startswith("busan")}
        survivors = {name: pid for name, pid in pids(cluster).items() if name not in before}
        addresses = {each.name: each.address for each in cluster.file.processes}
        await busan.kill()
        assert not any(runs(pid) for pid in before.values())
        assert pids(cluster) == survivors
        assert {each.name: each.pid for each in load_cluster(tmp_path).processes if each.pid} == survivors
        assert await health(addresses["busan-1"], 1) == UNREACHABLE
        assert not cluster.fallen  # it was asked to

        await busan.start()
        assert {each.name: each.address for each in cluster.file.processes} == addresses
        assert await health(addresses["busan-1"], 5) == SERVING
        assert not set(pids(cluster).values()) & set(before.values())


async def test_a_region_keeps_its_disks_unless_they_are_lost(tmp_path: Path) -> None:
    async with small(tmp_path) as cluster:
        seoul = cluster.region("seoul")
        plan = cluster.layout.regions["seoul"]
        with pytest.raises(ClusterError, match="seoul-redis"):
            await seoul.lose_disks()
        store = plan.nodes["seoul-1"].directory / "store.db"
        store.write_text("known by heart")
        await seoul.kill()
        assert any(plan.redis_directory.rglob("*.aof"))
        await seoul.start()
        assert store.read_text() == "known by heart"
        await seoul.kill()
        await seoul.start(lose_disks=True)
        assert not store.exists()
        assert await health(plan.nodes["seoul-1"].address, 5) == SERVING


@linux
async def test_a_stopped_region_is_silent_until_it_is_resumed(tmp_path: Path) -> None:
    async with small(tmp_path) as cluster:
        seoul = cluster.region("seoul")
        await seoul.stop()
        assert {state(each.pid) for each in seoul.processes if each.pid} == {"T"}
        assert all(each.alive for each in seoul.processes)
        await seoul.resume()
        assert "T" not in {state(each.pid) for each in seoul.processes if each.pid}
        assert await health(cluster.file.nodes["seoul-1"].address, 5) == SERVING
        await seoul.stop()  # and closing copes with stopped ones


async def test_one_process_at_a_time(tmp_path: Path) -> None:
    async with small(tmp_path) as cluster:
        seoul = cluster.region("seoul")
        for process in (seoul.redis, seoul.replicator, seoul.nodes["seoul-1"]):
            others = {name: pid for name, pid in pids(cluster).items() if name != process.name}
            await process.kill()
            assert pids(cluster) == others
            await process.start()
            assert {**others, process.name: process.pid} == pids(cluster)


async def test_a_process_that_falls_by_itself_is_reported(tmp_path: Path) -> None:
    async with small(tmp_path) as cluster:
        node = cluster.node("busan-1")
        assert node.pid is not None
        os.kill(node.pid, signal.SIGKILL)
        await node.gone()
        assert cluster.fallen == ["busan-1 ended by itself with signal SIGKILL"]


async def test_the_wan_is_cut_black_and_slow_on_demand(tmp_path: Path) -> None:
    async with small(tmp_path, delay_ms=1.0) as cluster:
        plan = cluster.layout
        link = next(each for each in plan.links if (each.from_region, each.service) == ("seoul", "redis"))
        password = plan.regions["busan"].passwords["peer"]
        assert await ping(link.port, "peer", password, 5) == ""
        await cluster.wan.cut("seoul", "busan")
        assert "port does not answer" in await ping(link.port, "peer", password, 5)
        assert await ping(plan.regions["busan"].redis_port, "peer", password, 5) == ""  # inside busan all is well
        await cluster.wan.heal("seoul", "busan")
        assert await ping(link.port, "peer", password, 5) == ""
        await cluster.wan.black_hole("busan", "seoul", both=False)
        assert "TimeoutError" in await ping(link.port, "peer", password, 0.2)
        await cluster.wan.heal()
        await cluster.wan.delay("seoul", "busan", 50, jitter_ms=5)
        await cluster.wan.narrow("busan", "seoul", 10_000, both=False)
        loop = asyncio.get_running_loop()
        start = loop.time()
        assert await ping(link.port, "peer", password, 5) == ""
        assert loop.time() - start >= 0.1
        found = next(each for each in await cluster.wan.stats() if each["name"] == link.name)
        assert (found["there"]["delay_ms"], found["there"]["bytes_per_s"]) == (50, 0)
        assert (found["back"]["delay_ms"], found["back"]["bytes_per_s"]) == (50, 10_000)


async def test_the_real_services_start_and_a_region_returns_without_its_disks(tmp_path: Path) -> None:
    async with await ProcessCluster.create(tmp_path, nodes_per_region=1) as cluster:
        await cluster.region("busan").kill()
        await cluster.region("busan").start(lose_disks=True)
        for endpoint in cluster.file.endpoints:
            assert await health(endpoint.address, 5) == SERVING
        assert not cluster.fallen


# ---------------------------------------------------------------- the end


async def test_who_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    async with small(tmp_path, env={"STUB_DEAF": "1"}, stop_timeout_s=0.2) as cluster:
        started = pids(cluster)
    assert not any(runs(pid) for pid in started.values())


async def test_cancelling_during_the_start_leaves_nothing_behind(tmp_path: Path) -> None:
    async with gate() as (address, came):
        options = Options(env={"STUB_GATE": address, "STUB_MUTE": "1"})
        start = asyncio.create_task(ProcessCluster.create(tmp_path, commands=stub_command, options=options))
        stubs = [await came.get() for _ in range(6)]
        numbers = [int(await stub.readline()) for stub in stubs]
        numbers += [each.pid for each in load_cluster(tmp_path).processes if each.pid]
        assert len(set(numbers)) == 9
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert not any(runs(pid) for pid in numbers)


@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
async def test_nothing_outlives_the_controller(tmp_path: Path, number: signal.Signals) -> None:
    controller = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.cluster.controller", str(tmp_path),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert controller.stdout is not None
    children: list[int] = []
    try:
        assert await controller.stdout.readline() == b"ready\n"
        children = [each.pid for each in load_cluster(tmp_path).processes if each.pid]
        assert len(children) == 7
        assert all(os.getpgid(pid) == pid for pid in children)  # a Ctrl-C at a terminal does not reach them
        controller.send_signal(number)
        await controller.wait()
        for pid in children:
            await ends(pid)
        with pytest.raises(ClusterError, match="no cluster runs in"):
            load_cluster(tmp_path)
    finally:
        if controller.returncode is None:
            controller.kill()
            await controller.wait()
        for pid in filter(runs, children):  # only if the test has failed
            os.kill(pid, signal.SIGKILL)


# ---------------------------------------------------------------- the guard where the kernel does not help


@linux
async def test_a_guard_with_a_pipe_kills_its_group_when_the_controller_is_gone() -> None:
    watched, controller_end = os.pipe()
    guarded = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), str(watched),
        sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)",
        stdout=subprocess.PIPE, start_new_session=True, pass_fds=[watched],
    )  # fmt: skip
    os.close(watched)
    assert guarded.stdout is not None
    child = int(await guarded.stdout.readline())
    assert child != guarded.pid
    os.close(controller_end)
    await guarded.wait()
    await ends(child)


@pytest.mark.parametrize("pipe", [True, False])
async def test_a_guard_passes_on_the_exit_code(pipe: bool) -> None:
    if not pipe and sys.platform != "linux":
        pytest.skip("needs prctl")
    watched, controller_end = os.pipe()
    guarded = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), str(watched if pipe else -1),
        sys.executable, "-c", "raise SystemExit(42)",
        start_new_session=True, pass_fds=[watched],
    )  # fmt: skip
    assert await guarded.wait() == 42
    os.close(watched)
    os.close(controller_end)


async def test_a_guard_says_what_it_cannot_run() -> None:
    guarded = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), "-1", "/no/such/program",
        stderr=subprocess.PIPE,
    )  # fmt: skip
    _, said = await guarded.communicate()
    assert guarded.returncode == 127
    assert b"/no/such/program" in said
