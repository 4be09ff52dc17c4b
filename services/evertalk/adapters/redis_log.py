"""RedisLog: appends to the own region's Redis over one connection that never reconnects silently (R3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import ReadOnlyError, ResponseError

from evertalk.adapters import redis_keys as keys
from evertalk.adapters import redis_scripts as scripts
from evertalk.adapters.redis_common import COMMAND_S, Link, LinkBroken, pairs, refusal
from evertalk.core.errors import (
    LogError,
    LogOutcomeUnknown,
    LogUnavailable,
    OriginLost,
    ShardsMismatch,
    UnsafeRedis,
)
from evertalk.core.ids import origin_name
from evertalk.core.model import Stream
from evertalk.ports import Ids

#: What a Redis must be set to, or it forgets what it acknowledged (R3). During a rewrite
#: no-appendfsync-on-rewrite would switch fsync off.
_SAFE = {
    "appendonly": "yes",
    "appendfsync": "always",
    "maxmemory-policy": "noeviction",
    "no-appendfsync-on-rewrite": "no",
}
#: From 7.0 on XADD numbers entries itself (`0-*`) and scripts have flags.
_OLDEST = 7


class RedisLog:
    """The Log port over Redis ≥ 7.0 or Valkey. One task appends at a time.

    With `appendfsync always` Redis writes and fsyncs its file before it sends replies, so a position means
    durable. If that write or fsync fails, Redis exits without replying: the outcome is unknown, and after the
    restart the origin is another.

    Args:
        url: redis://user:password@host:port.
        region: the region that this Redis is of.
        shards: number of shards of the cluster.
        ids: makes the names of new origins.
        deadline_s: seconds after which an append without a reply is given up as unknown.
    """

    def __init__(self, url: str, region: str, shards: int, ids: Ids, deadline_s: float = COMMAND_S) -> None:
        self._url = url
        self._region = region
        self._shards = shards
        self._ids = ids
        self._deadline_s = deadline_s
        self._link: Link | None = None
        self._streams: list[str] = []

    async def claim(self) -> str:
        await self.close()
        link = await Link.open(self._url)
        claimed = False
        try:
            run_id = await self._check(link)
            origin = await self._claim(link, run_id)
            self._streams = [keys.stream_key(Stream(origin, shard)) for shard in range(self._shards)]
            self._link = link
            claimed = True
            return origin
        finally:
            if not claimed:
                await link.close()

    async def _check(self, link: Link) -> str:
        """The run_id of the process at the other end of this link, once it is seen to be safe."""
        where = f"Redis at {link.address}"
        info, persistence, settings = await link.run(
            [("INFO", "server"), ("INFO", "persistence"), ("CONFIG", "GET", *_SAFE)], self._deadline_s
        )
        for reply in (info, persistence, settings):
            if isinstance(reply, ResponseError):
                raise UnsafeRedis(
                    f"{where} does not show its settings ({reply}), so nobody knows whether it"
                    " keeps what it acknowledges: allow the user INFO and CONFIG GET"
                )
        server = _info(info)
        if int(server["redis_version"].split(".")[0]) < _OLDEST:
            raise UnsafeRedis(
                f"{where} is version {server['redis_version']}: use Redis {_OLDEST}.0 or newer, or Valkey"
            )
        if _info(persistence).get("loading") == "1":
            raise LogUnavailable(f"{where} is still loading its data")
        found = {name.decode(): value.decode() for name, value in pairs(settings).items()}
        for name, wanted in _SAFE.items():
            if found.get(name) != wanted:
                raise UnsafeRedis(
                    f"{where} runs with '{name} {found.get(name)}' and may forget what it has"
                    f" acknowledged: set '{name} {wanted}' in its configuration and restart it"
                )
        await self._check_loading(link)
        return server["run_id"]

    async def _check_loading(self, link: Link) -> None:
        """Most versions load their file with the rights of user `default`, even if it is off, and drop what
        scripts wrote if those do not suffice (valkey-io/valkey#3983, redis/redis#14541)."""
        dry_run = ("ACL", "DRYRUN", "default", "XADD", keys.WAKE, "*", "o", "")
        [reply] = await link.run([dry_run], self._deadline_s)
        if isinstance(reply, bytes) and reply != b"OK":
            raise UnsafeRedis(
                f"Redis at {link.address} may forget at a restart what scripts wrote, for its user 'default' has too"
                " few rights: set 'user default off resetpass ~* &* +@all', with which nobody can log in as it"
            )

    async def _claim(self, link: Link, run_id: str) -> str:
        where = f"Redis at {link.address}"
        fresh = origin_name(self._region, self._ids.ulid())
        load = ("SCRIPT", "LOAD", scripts.APPEND.text)
        command = ("EVAL", scripts.CLAIM.text, 0, self._region, run_id, self._shards, fresh)
        loaded, reply = await link.run([load, command], self._deadline_s)
        for one in (loaded, reply):
            if isinstance(one, ResponseError):
                raise refusal(one, link.address)
        outcome, value = (str(part, "utf-8") for part in reply)
        if outcome == "shards":
            raise ShardsMismatch(
                f"the cluster of {where} was created with {value} shards, but this process is set"
                f" to {self._shards}: set EVERTALK_SHARDS={value}"
            )
        if outcome == "region":
            raise UnsafeRedis(
                f"{where} belongs to region '{value}', not to '{self._region}': each region needs"
                " its own; check EVERTALK_REDIS and EVERTALK_REGION"
            )
        return value

    async def append(self, entries: Sequence[tuple[int, bytes]]) -> list[int | LogError]:
        link = self._link
        if link is None or not await link.is_idle():
            await self.close()
            raise LogUnavailable("the log is not claimed, or its Redis has closed the connection: claim again")
        commands = [("EVALSHA", scripts.APPEND.sha, 1, self._streams[shard], payload) for shard, payload in entries]
        try:
            replies = await link.run(commands, self._deadline_s)
            sentence = ""
        except LinkBroken as broken:
            replies, sentence = broken.replies, str(broken)
        results = [self._result(reply, link) for reply in replies]
        results += [LogOutcomeUnknown(f"{sentence}; this entry may have been written")] * (len(entries) - len(results))
        if sentence or any(isinstance(result, OriginLost | LogUnavailable) for result in results):
            await self.close()
        return results

    def _result(self, reply: Any, link: Link) -> int | LogError:
        if reply is None or (isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE")):
            return OriginLost(f"the stream is gone from Redis at {link.address}: it was emptied, claim again")
        if isinstance(reply, ReadOnlyError):
            return LogUnavailable(f"Redis at {link.address} has become a replica and takes no writes")
        if isinstance(reply, ResponseError):
            return refusal(reply, link.address)
        return keys.position_of(reply)

    async def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()


def _info(raw: bytes) -> dict[str, str]:
    """Fields of an INFO reply."""
    return dict(line.split(":", 1) for line in raw.decode().splitlines() if ":" in line)
