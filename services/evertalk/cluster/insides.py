"""What drills do to the insides of containers: disks damaged or full, wrong clocks, a word with Redis as its admin."""

from __future__ import annotations

import json
from collections.abc import Mapping

from evertalk.cluster import damage
from evertalk.cluster.containers import Container
from evertalk.cluster.docker import docker
from evertalk.cluster.verbs import ClusterError

#: In every node and replicator of a drill: what its clock is wrong by (adapters/clock.py).
CLOCK_FILE = "/data/clock"
_DATA = "/data"
#: The largest file, write-ahead logs apart (they come and go). The limit is the soft one, which may be raised again.
_LARGEST = f"find {_DATA} -type f ! -name '*-wal' ! -name '*-shm' -printf '%s\\n' | sort -n | tail -1"
#: Under the engine's init the service is its child; Redis has none and is 1 itself.
_PID = {"redis": "1", "node": "$(cat /proc/1/task/1/children)"}


class Insides:
    """The verbs of `evertalk.cluster.verbs.Inside`, for containers by name."""

    def __init__(self, containers: Mapping[str, Container]) -> None:
        self._containers = containers

    def _container(self, name: str) -> Container:
        if name not in self._containers:
            raise ClusterError(f"there is no container {name!r}, only {', '.join(self._containers)}")
        return self._containers[name]

    async def ask_redis(self, region: str, *words: str) -> str:
        """As `Inside.ask_redis`."""
        redis = self._container(f"{region}-redis")
        passwords = json.loads(await docker("exec", redis.id, "cat", f"/secrets/{region}/passwords.json"))
        login = f"REDISCLI_AUTH={passwords['admin']}"
        said = await docker("exec", "-e", login, redis.id, "redis-cli", "-e", "--user", "admin", *words)
        return said.strip()

    async def damage(self, process: str, way: str, seed: int = 0) -> str:
        """As `Inside.damage`: by a container that has its volumes."""
        container = self._container(process)
        if container.alive and way not in damage.HARMLESS:
            raise ClusterError(f"{process} is alive: kill it before its disk is damaged")
        image = next(each.image for each in self._containers.values() if each.kind == "node")
        said = await docker(
            "run", "--rm", "--network", "none", "--volumes-from", container.id, image,
            "python", "-m", "evertalk.cluster.damage", way, _DATA, str(seed),
        )  # fmt: skip
        return f"{process}: {said.strip()}"

    async def fill_disk(self, process: str) -> None:
        """As `Inside.fill_disk`: a limit on the size of files, and no file may grow beyond the largest."""
        await self._limit(process, f"$({_LARGEST})")

    async def free_disk(self, process: str) -> None:
        """As `Inside.free_disk`."""
        if self._container(process).alive:
            await self._limit(process, "unlimited")

    async def _limit(self, process: str, size: str) -> None:
        container = self._container(process)
        if container.kind not in _PID or not container.alive:
            raise ClusterError(f"the disk of {process} cannot be filled: it is dead, or has none")
        command = f"prlimit --pid {_PID[container.kind]} --fsize={size}:"
        await docker("exec", container.id, "sh", "-c", command)

    async def skew(self, region: str, offset_ms: int) -> None:
        """As `Inside.skew`: within 100 ms of each container's turn."""
        command = f"echo {offset_ms} > {CLOCK_FILE}.new && mv {CLOCK_FILE}.new {CLOCK_FILE}"
        for each in self._containers.values():
            if each.region == region and each.kind in ("node", "replicator") and each.alive:
                await docker("exec", each.id, "sh", "-c", command)
