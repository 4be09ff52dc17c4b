"""A Compose project under test: what is asked of it besides the driver's verbs, and what it must not leave behind."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

from evertalk.cluster.compose import ComposeCluster
from evertalk.cluster.docker import docker, inspect
from evertalk.cluster.ports import free_ports
from tests.e2e.world import World

EVERTALK = Path(sys.executable).with_name("evertalk")
#: Labels of what belongs to a project.
PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
_PATIENCE_S = 240.0  # an engine on a busy machine takes its time
_END_S = 100.0


@asynccontextmanager
async def started(
    *command: str | Path, env: Mapping[str, str] | None = None, pipe: bool = False
) -> AsyncIterator[Process]:
    """A command in a session of its own, so that a signal reaches it alone; ended if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdin=PIPE if pipe else DEVNULL, stdout=PIPE, stderr=STDOUT,
        env={**os.environ, **(env or {})}, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:  # a drill still takes its containers away if it is asked to end
            process.terminate()
            try:
                await asyncio.wait_for(process.communicate(), _END_S)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()


async def ran(
    *command: str | Path, given: str = "", env: Mapping[str, str] | None = None, timeout_s: float = _PATIENCE_S
) -> tuple[int, str]:
    """(exit code, what it printed); `given` is what it reads."""
    async with started(*command, env=env, pipe=True) as process, asyncio.timeout(timeout_s):
        said, _ = await process.communicate(given.encode())
        assert process.returncode is not None
        return process.returncode, said.decode()


async def until(process: Process, word: str) -> str:
    """Read what it prints up to a line that holds the word."""
    assert process.stdout is not None
    read: list[str] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_S):
            while line := (await process.stdout.readline()).decode():
                read.append(line)
                if word in line:
                    return "".join(read)
    raise AssertionError(f"{word!r} did not come: {''.join(read)}")


async def left_behind(project: str) -> list[str]:
    """Containers, volumes and networks that bear the project's label."""
    label = ("--filter", f"label={PROJECT}={project}")
    found = await asyncio.gather(
        docker("ps", "-a", *label, "--format", "container {{.Names}}"),
        docker("volume", "ls", *label, "--format", "volume {{.Name}}"),
        docker("network", "ls", *label, "--format", "network {{.Name}}"),
    )
    return "".join(found).splitlines()


async def projects_of(checkout: Path) -> list[str]:
    """Names of the projects with containers that were made from the compose file in this directory."""
    listed = await docker("ps", "-a", "--format", f'{{{{.Label "{PROJECT}"}}}} {{{{.Label "{PROJECT}.config_files"}}}}')
    return sorted({line.split()[0] for line in listed.splitlines() if str(checkout) in line})


class Project:
    """A running cluster of containers."""

    def __init__(self, cluster: ComposeCluster) -> None:
        self.cluster = cluster
        self.world = World(cast(Any, cluster))  # it uses no more than the verbs
        self.jeju = dict(zip(("jeju-1", "jeju-2"), free_ports(2), strict=True))  # ports, should it join

    def id(self, service: str) -> str:
        """The container's."""
        found = {each.name: each.id for region in self.cluster.regions.values() for each in region.processes}
        return found[service]

    async def seen(self) -> dict[str, dict[str, Any]]:
        """What the engine knows of each container, by service."""
        ids = await self.cluster.compose.containers()
        return dict(zip(ids, await inspect(list(ids.values())), strict=True))

    async def running(self) -> dict[str, dict[str, Any]]:
        """The same of those that run."""
        return {name: seen for name, seen in (await self.seen()).items() if seen["State"]["Running"]}

    async def compose(self, *words: str, given: str = "", profile: str = "") -> tuple[int, str]:
        """A command of the Compose tool: (exit code, what it printed)."""
        tool = self.cluster.compose
        env = {**tool.env, **{f"{node.replace('-', '_').upper()}_PORT": str(port) for node, port in self.jeju.items()}}
        profiles = ["--profile", profile] if profile else []
        return await ran(*tool.command, *profiles, *words, given=given, env=env)

    async def inside(self, service: str, *command: str) -> tuple[int, str]:
        """A command in a container: (exit code, what it printed)."""
        return await ran("docker", "exec", self.id(service), *command)

    async def python(self, service: str, program: str, *arguments: str) -> Any:
        """What a program prints in a container, which is JSON."""
        code, said = await self.inside(service, "python", "-c", program, *arguments)
        assert code == 0, said
        return json.loads(said)

    async def reached(self, service: str, targets: Sequence[str]) -> dict[str, str]:
        """From inside a container, by "host:port": "yes", or the error of connecting there."""
        found: dict[str, str] = await self.python(service, _REACH, *targets)
        return found


#: All at once: a name that nobody knows may take the resolver seconds.
_REACH = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor

def reach(target):
    host, port = target.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 2).close()
    except OSError as error:
        return type(error).__name__
    return "yes"

with ThreadPoolExecutor(16) as pool:
    print(json.dumps(dict(zip(sys.argv[1:], pool.map(reach, sys.argv[1:])))))
"""
