"""One cluster of containers: what it hides, what it keeps, who may reach whom, and that it stays up."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from evertalk.client import Client, Endpoint, register, sign_in
from evertalk.cluster.compose import ComposeCluster
from evertalk.cluster.docker import docker
from evertalk.console.status import Operator, Place
from evertalk.core.model import Durability, Message
from evertalk.drill.finals import wait_until_equal
from tests.docker.project import Project, left_behind
from tests.e2e.world import PASSWORD

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(400),
    pytest.mark.xdist_group("docker"),
]
REGIONS = ("seoul", "busan")
NODES = {"seoul-1", "seoul-2", "busan-1", "busan-2"}
ALL = {*NODES, *(f"{region}-{role}" for region in REGIONS for role in ("redis", "replicator", "wan"))}


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Project]:
    """Two regions; afterwards nothing is left of them, nor of a third."""
    async with await ComposeCluster.create(directory, REGIONS, nodes_per_region=2, shards=4, seed=1, env={}) as cluster:
        project = Project(cluster)
        try:
            yield project
        finally:
            await project.world.operator.close()
    assert await left_behind(cluster.project) == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def project(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Project]:
    """The same for all tests: whoever breaks it mends it. One task holds it, as its own task group demands."""
    up: asyncio.Future[Project] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def hold() -> None:
        async with running(tmp_path_factory.mktemp("cluster")) as found:
            up.set_result(found)
            await done.wait()

    holding = asyncio.create_task(hold())
    await asyncio.wait((holding, up), return_when=asyncio.FIRST_COMPLETED)
    if holding.done():
        await holding
    try:
        yield up.result()
    finally:
        done.set()
        await holding


async def texts(client: Client, scope: bytes) -> list[str]:
    page = await client.history(scope)
    return [m.event.body.text for m in page.messages if isinstance(m.event.body, Message)]


# ---------------------------------------------------------------- what it is made of


async def test_no_process_in_any_container_is_root(project: Project) -> None:
    seen = await project.running()
    assert set(seen) == ALL
    for name, one in seen.items():
        _, *lines = (await docker("top", one["Id"], "-eo", "pid,uid,gid,comm")).splitlines()
        assert lines, name
        assert {tuple(line.split()[1:3]) for line in lines} == {("999", "999")}, (name, lines)


async def test_every_container_is_confined_and_comes_back(project: Project) -> None:
    for name, one in (await project.running()).items():
        host = one["HostConfig"]
        assert host["CapDrop"] == ["ALL"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert not host["Privileged"], name
        assert 0 < host["Memory"] <= 512 * 1024**2, name
        assert host["RestartPolicy"]["Name"] == "unless-stopped", name
        assert all(mount["Type"] == "volume" for mount in one["Mounts"]), name


async def test_every_container_is_found_healthy_by_its_engine(project: Project) -> None:
    async with asyncio.timeout(200):  # a drill's cluster is asked once a minute, and the driver was content before
        while await states(project) != {"healthy"}:  # noqa: ASYNC110  it can only be asked
            await asyncio.sleep(0.5)


async def states(project: Project) -> set[str]:
    return {one["State"]["Health"]["Status"] for one in (await project.running()).values()}


async def test_only_nodes_publish_a_port_and_only_to_this_machine(project: Project) -> None:
    published = {
        name: [(port, *bound.values()) for port, all_bound in one["NetworkSettings"]["Ports"].items()
               for bound in all_bound or []]
        for name, one in (await project.running()).items()
    }  # fmt: skip
    addresses = {e.node: e.address.rpartition(":")[2] for e in project.cluster.file.endpoints}
    assert {name: found for name, found in published.items() if found} == {
        node: [("7000/tcp", "127.0.0.1", addresses[node])] for node in NODES
    }


async def test_only_the_proxies_join_the_wan(project: Project) -> None:
    prefix = f"{project.cluster.project}_"
    joined = {
        name: {network.removeprefix(prefix) for network in one["NetworkSettings"]["Networks"]}
        for name, one in (await project.running()).items()
    }
    assert joined == {
        name: {name.rpartition("-")[0], "wan"} if name.endswith("-wan") else {name.rpartition("-")[0]} for name in ALL
    }
    assert json.loads(await docker("network", "inspect", f"{prefix}wan"))[0]["Internal"]


async def test_a_redis_is_set_up_to_lose_nothing(project: Project) -> None:
    wanted = {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "aof-use-rdb-preamble": "no",
    }
    for region in REGIONS:
        for setting, value in {**wanted, "aclfile": f"/secrets/{region}/users.acl"}.items():
            assert await project.cluster.ask_redis(region, "CONFIG", "GET", setting) == f"{setting}\n{value}"
        code, said = await project.inside(f"{region}-redis", "redis-cli", "ping")
        assert "NOAUTH" in said, (code, said)
        data = (await project.running())[f"{region}-redis"]["Mounts"]
        assert [m["Name"] for m in data if m["RW"]] == [f"{project.cluster.project}_{region}-redis"]


# ---------------------------------------------------------------- who reaches whom


async def test_a_region_is_reached_through_the_proxies_and_no_other_way(project: Project) -> None:
    seen = await project.running()
    ports = {"busan-redis": 6379, "busan-wan": 7100, "busan-replicator": 7000, "busan-1": 7000, "busan-2": 7000}
    near = [f"{name}:{port}" for name, port in ports.items()]
    far: list[str] = []
    for name, port in ports.items():
        for network, joined in seen[name]["NetworkSettings"]["Networks"].items():
            (near if network.endswith("_busan") else far).append(f"{joined['IPAddress']}:{port}")
    assert (len(near), len(far)) == (10, 1)
    assert set((await project.reached("busan-1", near)).values()) == {"yes"}
    for outsider in ("seoul-1", "seoul-replicator"):
        assert "yes" not in (await project.reached(outsider, near + far)).values()

    peers = json.loads((await project.inside("seoul-1", "cat", "/secrets/seoul/evertalk_peers"))[1])
    assert list(peers) == ["busan"]
    ways = [peers["busan"]["redis"].rpartition("@")[2], *peers["busan"]["nodes"].values()]
    assert {way.partition(":")[0] for way in ways} == {"seoul-wan"}
    assert set((await project.reached("seoul-1", ways)).values()) == {"yes"}
    for address in peers["busan"]["nodes"].values():
        said = await project.inside("seoul-1", "python", "-m", "evertalk.adapters.probe", address)
        assert said == (0, "SERVING\n")


_AS_PEER = """
import json, redis
peers = json.load(open("/secrets/seoul/evertalk_peers"))
client = redis.Redis.from_url(peers["busan"]["redis"], decode_responses=True)
log = next(client.scan_iter("log:*"))

def said(*words):
    try:
        client.execute_command(*words)
    except redis.exceptions.ResponseError as error:
        return type(error).__name__
    return "done"

print(json.dumps({" ".join(words[:2]): said(*words) for words in [
    ["XREAD", "COUNT", "1", "STREAMS", log, "0"], ["HGETALL", "meta"], ["PING"],
    ["XADD", log, "*", "b", "forged"], ["XTRIM", log, "MAXLEN", "0"], ["SET", "meta", "x"], ["DEL", "meta"],
    ["PUBLISH", "wm", "x"], ["EVAL", "return 1", "0"], ["CONFIG", "GET", "*"], ["FLUSHALL"], ["ACL", "LIST"],
    ["SHUTDOWN"], ["KEYS", "*"],
]}))
"""


async def test_a_region_may_read_another_and_not_write(project: Project) -> None:
    found = await project.python("seoul-1", _AS_PEER)
    assert {words for words, said in found.items() if said == "done"} == {"XREAD COUNT", "HGETALL meta", "PING"}
    assert {said for said in found.values() if said != "done"} == {"NoPermissionError"}


# ---------------------------------------------------------------- secrets


_FILES = """
import json, pathlib
root = pathlib.Path("/secrets")
print(json.dumps({str(p.relative_to(root)): [oct(p.stat().st_mode)[-3:], p.stat().st_uid, p.read_text()]
                  for p in root.rglob("*") if p.is_file()}
      | {str(p.relative_to(root)) + "/": [oct(p.stat().st_mode)[-3:], p.stat().st_uid, ""]
         for p in root.rglob("*") if p.is_dir()}))
"""


async def secrets_of(project: Project, region: str) -> tuple[dict[str, Any], dict[str, str]]:
    """(name -> [mode, owner, text] of all that a node of the region sees, its secrets by name)."""
    files = await project.python(f"{region}-1", _FILES)
    secrets = dict(json.loads(files[f"{region}/passwords.json"][2]))
    secrets["key"] = json.loads(files[f"{region}/keys/{region}.private.json"][2])["d"]
    return files, secrets


async def test_a_region_holds_its_own_secrets_and_shows_them_to_nobody(project: Project) -> None:
    of = {region: await secrets_of(project, region) for region in REGIONS}
    for region, other in (REGIONS, REGIONS[::-1]):
        files, own = of[region]
        assert set(own) == {"admin", "node", "peer", "key"}
        others = of[other][1]
        assert [name for name in files if name.startswith(f"{other}/") and not name.endswith("/")] == []
        for name, (mode, owner, text) in files.items():
            assert owner == 999, name
            if name == f"{region}/" or any(secret in text for secret in [*own.values(), *others.values()]):
                assert mode in ("600", "700"), name
            held = {user for user, secret in others.items() if secret in text}
            assert held == ({"peer"} if name == f"{region}/evertalk_peers" else set()), name
    mounted = {
        name: {m["Name"].partition("_")[2]: m["RW"] for m in one["Mounts"] if m["Name"].endswith("-secrets")}
        for name, one in (await project.running()).items()
    }
    assert mounted == {name: {f"{name.rpartition('-')[0]}-secrets": False} for name in ALL}


async def test_no_secret_is_in_an_environment_a_command_line_or_a_log(project: Project) -> None:
    secrets = [s for region in REGIONS for s in (await secrets_of(project, region))[1].values()]
    places = {name: json.dumps(one) for name, one in (await project.seen()).items()}
    assert set(places) == {*ALL, "secrets"}
    for name in ALL:
        places[f"processes of {name}"] = await docker("top", project.id(name), "-eo", "pid,args")
    code, places["the logs"] = await project.compose("logs", "--no-color")
    assert code == 0
    assert [name for name, text in places.items() if any(secret in text for secret in secrets)] == []


# ---------------------------------------------------------------- people


async def test_two_people_talk_one_of_them_through_the_chat_service(project: Project) -> None:
    async with project.world.friend("anna", "seoul") as anna:
        typed = "/to anna\nhello from a pipe\n/history\n/quit\n"
        words = [
            "run",
            "--rm",
            "-T",
            "-e",
            f"EVERTALK_PASSWORD={PASSWORD}",
            "chat",
            "--as",
            "bert",
            "--region",
            "busan",
        ]
        code, said = await project.compose(*words, given=typed, profile="chat")
        assert code == 0, said
        assert "talking with anna" in said
        assert "bert: hello from a pipe" in said
        await anna.sees("hello from a pipe")


async def test_the_load_service_talks_and_says_how_it_fares(project: Project) -> None:
    load = ["evertalk", "load", "--seconds", "5", "--users", "4", "--rate", "20", "--plain"]
    code, said = await project.compose("run", "--rm", "-T", "load", *load, profile="load")
    assert code == 0, said
    assert set(await project.running()) == ALL


async def test_a_node_told_to_stop_drains_within_5_s_and_returns(project: Project) -> None:
    world = project.world
    async with world.friend("cleo", "seoul") as cleo, world.friend("dora", "busan") as dora:
        talk = await cleo.client.direct(dora.account)
        node = cleo.client.node
        sending = [await cleo.client.post(talk.id, f"m{n}") for n in range(50)]
        await docker("stop", "-t", "5", project.id(node))  # whoever takes longer ends with 137
        state = (await project.seen())[node]["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", 0)
        for posted in sending:
            await posted.accepted
        await dora.sees("m49")
        assert dora.texts() == [f"m{n}" for n in range(50)]
        assert cleo.client.node != node
    await docker("start", project.id(node))
    await project.cluster.node(node).start()  # waits until it serves
    assert (await project.seen())[node]["State"]["Running"]


# ---------------------------------------------------------------- a region dies


async def whole(project: Project, service: str) -> str:
    """What `evertalk status` says in a container, once it says that redundancy is whole."""
    async with asyncio.timeout(60):
        while True:
            code, said = await project.inside(service, "evertalk", "status")
            if code == 0:
                return said


async def test_with_seoul_dead_busan_names_it_and_has_all_that_was_sent(project: Project) -> None:
    assert "redundancy is whole" in await whole(project, "busan-1")
    world = project.world
    async with world.friend("emma", "seoul") as emma, world.friend("finn", "busan") as finn:
        talk = await emma.client.direct(finn.account)
        sent = await emma.client.send(talk.id, "before", wait_for=Durability.REPLICATED)
        assert sent.durability is Durability.REPLICATED
        await world.region("seoul").kill()
        try:
            async with asyncio.timeout(20):
                code, said = await project.inside("busan-1", "evertalk", "status")
            assert code == 1
            assert "redundancy is not whole" in said
            assert set(re.findall(r"^  (\w+-\d+): ", said, re.MULTILINE)) == {"seoul-1", "seoul-2"}
            assert "seoul has not been heard from" in said

            only = world.endpoints("busan", only=True)
            token = (await sign_in(only, "emma", PASSWORD)).token
            async with Client(only, region="busan", access_token=token) as again:
                assert await texts(again, talk.id) == ["before"]
            await emma.client.send(talk.id, "during")
            await finn.sees("during")
        finally:
            await world.region("seoul").start()

        after = await finn.client.send(talk.id, "after", wait_for=Durability.REPLICATED, timeout=60)
        assert after.durability is Durability.REPLICATED
        assert await world.equal()
        only = world.endpoints("seoul", only=True)
        async with Client(only, region="seoul", access_token=token) as home:
            assert await texts(home, talk.id) == ["before", "during", "after"]
    assert "redundancy is whole" in await whole(project, "seoul-1")
    assert project.cluster.fallen == []


async def test_a_third_region_joins_two_that_run(project: Project) -> None:
    def lives(seen: dict[str, Any]) -> dict[str, tuple[str, int]]:
        return {node: (seen[node]["State"]["StartedAt"], seen[node]["RestartCount"]) for node in NODES}

    world = project.world
    before = lives(await project.seen())
    async with world.friend("gita", "seoul") as gita, world.friend("hugo", "busan") as hugo:
        club = await gita.client.create_group("club", [hugo.account])
        await gita.client.send(club.id, "before jeju", wait_for=Durability.REPLICATED)

        code, said = await project.compose("up", "-d", "--no-build", profile="three")
        assert code == 0, said
        jeju = [Endpoint("jeju", f"127.0.0.1:{port}") for port in project.jeju.values()]
        ines = await register(jeju, "ines", PASSWORD, region="jeju", timeout=60)
        async with Client(jeju, region="jeju", access_token=ines.token) as in_jeju:
            talk = await in_jeju.direct(gita.account)
            await in_jeju.send(talk.id, "hello from jeju", wait_for=Durability.REPLICATED)
            await gita.sees("hello from jeju")
            await gita.client.send(talk.id, "welcome")
            assert await equal_everywhere(project)
            assert await texts(in_jeju, talk.id) == ["hello from jeju", "welcome"]
        token = (await sign_in(jeju, "hugo", PASSWORD)).token
        async with Client(jeju, region="jeju", access_token=token) as moved:
            assert await texts(moved, club.id) == ["before jeju"]
    assert lives(await project.seen()) == before
    for node in ("seoul-1", "busan-1", "jeju-1"):
        service = (await project.cluster.compose.containers())[node]
        said = await docker("exec", service, "evertalk", "status")
        assert "redundancy is whole" in said, said


async def equal_everywhere(project: Project) -> bool:
    """All six nodes serve and hold the same."""
    file = project.cluster.file
    places = [Place(e.region, e.node, e.address) for e in file.endpoints]
    places += [Place("jeju", node, f"127.0.0.1:{port}") for node, port in project.jeju.items()]
    operator = Operator(places, {"seoul": file.keys["seoul"]})
    try:
        return await wait_until_equal(operator, [place.node for place in places], 60.0)
    finally:
        await operator.close()
