"""RedisBoard and RedisBoardReader: the small shared state of a region, mirrors included."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import structlog
from google.protobuf.message import DecodeError
from redis.exceptions import NoScriptError, RedisError, ResponseError

from evertalk.adapters import redis_keys as keys
from evertalk.adapters import redis_scripts as scripts
from evertalk.adapters import wire
from evertalk.adapters.redis_common import CONNECT_S, Command, Link, Links, pairs, refusal
from evertalk.adapters.redis_tail import parse_origins
from evertalk.core import limits
from evertalk.core.errors import LogUnavailable
from evertalk.core.ids import region_of
from evertalk.core.model import Stream
from evertalk.core.vector import Vector
from evertalk.ports import MirrorBatch, OriginInfo, StoreEntry, StreamState, Watermark

#: Seconds of silence after which a subscription asks whether the other end lives; as many for the answer.
PING_S = 2.0
#: What a peer announces meanwhile is relayed at once: nobody waits for a watermark as for a message.
_GATHER_S = 0.025
_GATHERED = 100  # messages at most: nobody else runs while there are some
_LIFE_MS = int(limits.STORE_COUNTED_S * 1000)
_SCAN = 1000

_log = structlog.get_logger("evertalk.board")


class RedisBoardReader:
    """The BoardReader port over any region's Redis.

    Args:
        url: redis://user:password@host:port; a read-only user will do.
        connect_s: seconds a connect may take.
        ping_s: seconds of silence after which `watermarks` asks if the link lives; as many for the answer.
    """

    def __init__(self, url: str, connect_s: float = CONNECT_S, ping_s: float = PING_S) -> None:
        self._url = url
        self._connect_s = connect_s
        self._ping_s = ping_s
        self._links = Links(url, self._prepare(), connect_s)

    def _prepare(self) -> Sequence[Command]:
        return ()

    async def _run(self, commands: Sequence[Command], again: bool = True) -> list[Any]:
        replies = await self._links.run(commands, again)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise refusal(reply, self._address)
        return replies

    @property
    def _address(self) -> str:
        return self._links.address

    async def origins(self) -> dict[str, OriginInfo]:
        [flat] = await self._run([("HGETALL", keys.ORIGINS)])
        return parse_origins(flat)

    async def streams(self, wanted: Iterable[Stream]) -> dict[Stream, StreamState]:
        asked = list(wanted)
        names = [keys.stream_key(stream) for stream in asked]
        if not names:
            return {}
        commands: list[Command] = [("HMGET", keys.FLOOR, *names), ("HMGET", keys.BASE, *names)]
        for name in names:
            commands += [("XINFO", "STREAM", name), ("MEMORY", "USAGE", name)]
        floors, bases, *rest = await self._links.run(commands)
        states: dict[Stream, StreamState] = {}
        for i, stream in enumerate(asked):
            info, size = rest[2 * i], rest[2 * i + 1]
            if size is None or (isinstance(info, ResponseError) and "no such key" in str(info)):
                continue
            for reply in (floors, bases, info, size):
                if isinstance(reply, ResponseError):
                    raise refusal(reply, self._address)
            told = pairs(info)
            last = keys.position_of(told[b"last-generated-id"])
            states[stream] = StreamState(last, told[b"length"], size, int(floors[i] or 0), int(bases[i] or 0))
        return states

    async def stores(self) -> list[StoreEntry]:
        found: set[bytes] = set()
        cursor = b"0"
        while True:
            [(cursor, names)] = await self._run([("SCAN", cursor, "MATCH", keys.STORE + "*", "COUNT", _SCAN)])
            found.update(names)
            if cursor == b"0":
                break
        ordered = sorted(found)
        replies = await self._run([(verb, name) for name in ordered for verb in ("GET", "PTTL")])
        found_entries = (
            _decode_store(raw, left)
            for raw, left in zip(replies[::2], replies[1::2], strict=True)
            if raw is not None and left >= 0
        )
        return [entry for entry in found_entries if entry is not None]

    async def watermarks(self, relayed: bool = False) -> AsyncIterator[list[Watermark]]:
        link = await Link.open(self._url, self._connect_s)
        try:
            [reply] = await link.run([("SUBSCRIBE", keys.RELAYED if relayed else keys.WATERMARKS)])
            if isinstance(reply, ResponseError):
                raise refusal(reply, link.address)
            yield []
            while True:
                heard = await self._hear(link)
                if heard and not relayed:  # else it was gathered before
                    await asyncio.sleep(_GATHER_S)
                    for _ in range(_GATHERED):
                        if (more := await link.receive(0.0)) is None:
                            break
                        heard += self._told(more, link)
                if heard:
                    yield heard
        except (RedisError, OSError) as error:
            raise LogUnavailable(f"the subscription at Redis {link.address} broke: {error}") from error
        finally:
            await link.close()

    async def _hear(self, link: Link) -> list[Watermark]:
        """The next message, or nothing if the link is only alive."""
        reply = await link.receive(self._ping_s)
        if reply is None:
            await link.send([("PING",)])
            reply = await link.receive(self._ping_s)
        if reply is None:
            raise LogUnavailable(f"Redis at {link.address} has fallen silent")
        return self._told(reply, link)

    def _told(self, reply: Any, link: Link) -> list[Watermark]:
        if isinstance(reply, ResponseError):
            raise refusal(reply, link.address)
        return _decode_watermarks(reply[2]) if reply[0] == b"message" else []

    async def close(self) -> None:
        await self._links.close()


class RedisBoard(RedisBoardReader):
    """The Board port over the own region's Redis. A write that ends in LogUnavailable may have been done.

    Args:
        url: redis://user:password@host:port of a user that may write.
        region: the region that this Redis is of.
        connect_s, ping_s: as for the reader.
    """

    def __init__(self, url: str, region: str, connect_s: float = CONNECT_S, ping_s: float = PING_S) -> None:
        super().__init__(url, connect_s, ping_s)
        self._region = region

    def _prepare(self) -> Sequence[Command]:
        return [("SCRIPT", "LOAD", script.text) for script in scripts.BOARD]

    async def _eval(self, calls: Sequence[Command], again: bool = True) -> list[Any]:
        """Run EVALSHA for each (sha, number of keys, keys and arguments)."""
        commands: list[Command] = [("EVALSHA", *call) for call in calls]
        replies = await self._links.run(commands, again)
        lost = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if lost:  # somebody flushed the scripts; those calls have not run
            again_replies = await self._links.run([*self._prepare(), *(commands[i] for i in lost)], again)
            for i, reply in zip(lost, again_replies[-len(lost) :], strict=True):
                replies[i] = reply
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise refusal(reply, self._address)
        return replies

    async def append_mirror(self, batches: Sequence[MirrorBatch], announce: Sequence[Watermark]) -> list[bool]:
        calls: list[Command] = []
        for batch, mark in zip(batches, announce, strict=True):
            end = batch.predecessor + len(batch.entries)
            if [position for position, _ in batch.entries] != list(range(batch.predecessor + 1, end + 1)):
                raise ValueError(f"entries of a mirror batch must follow {batch.predecessor} without a gap")
            key = keys.stream_key(Stream(batch.origin, batch.shard, True))
            told = _encode_watermarks([mark]) if mark.position else ""
            payloads = (payload for _, payload in batch.entries)
            calls.append(
                (
                    scripts.APPEND_MIRROR.sha,
                    1,
                    key,
                    batch.origin,
                    batch.predecessor,
                    keys.WATERMARKS,
                    told,
                    *payloads,
                )
            )
        # Not again: if the first try was written, the second would say False.
        return [reply == 1 for reply in await self._eval(calls, again=False)] if calls else []

    async def jump_mirror(self, origin: str, shard: int, floor: int) -> int:
        key = keys.stream_key(Stream(origin, shard, True))
        [last] = await self._eval([(scripts.JUMP_MIRROR.sha, 1, key, origin, floor)])
        return int(last)

    async def trim(self, stream: Stream, position: int) -> None:
        await self._eval([(scripts.TRIM.sha, 1, keys.stream_key(stream), position)])

    async def publish_store(self, entry: StoreEntry) -> None:
        left = _LIFE_MS - int(entry.age_s * 1000)
        if left > 0:
            await self._eval([(scripts.PUBLISH_STORE.sha, 1, keys.store_key(entry.node), _encode_store(entry), left)])

    async def carry_origins(self, origins: Iterable[OriginInfo]) -> None:
        told = json.dumps([(o.origin, o.region, o.state, o.last) for o in origins])
        await self._eval([(scripts.CARRY_ORIGINS.sha, 0, self._region, told)])

    async def fold(self, origin: str) -> None:
        await self._eval([(scripts.FOLD.sha, 0, origin, region_of(origin))])

    async def forget_folded(self, origin: str) -> None:
        await self._eval([(scripts.FORGET_FOLDED.sha, 0, origin)])

    async def announce(self, watermarks: Sequence[Watermark], relayed: bool) -> None:
        if watermarks:
            channel = keys.RELAYED if relayed else keys.WATERMARKS
            await self._run([("PUBLISH", channel, _encode_watermarks(watermarks))])

    async def rewrite_aof(self) -> None:
        [reply] = await self._links.run([("BGREWRITEAOF",)])
        if isinstance(reply, ResponseError) and "already in progress" not in str(reply):
            raise refusal(reply, self._address)

    async def memory(self) -> tuple[int, int]:
        [raw] = await self._run([("INFO", "memory")])
        told = dict(line.split(b":", 1) for line in raw.splitlines() if b":" in line)
        return int(told[b"used_memory"]), int(told[b"maxmemory"])


def _encode_watermarks(watermarks: Sequence[Watermark]) -> str:
    rows = [(w.holder, w.life, w.origin, w.shard, w.position) for w in watermarks]
    return json.dumps(rows, separators=(",", ":"))


def _decode_watermarks(raw: bytes) -> list[Watermark]:
    try:
        return [Watermark(*row) for row in json.loads(raw)]
    except (ValueError, TypeError) as error:
        _log.warning("a watermark does not parse and is passed over", why=str(error))
        return []


def _encode_store(entry: StoreEntry) -> str:
    return json.dumps(
        {
            "node": entry.node,
            "region": entry.region,
            "life": entry.life,
            "state": entry.state,
            "vector": base64.b64encode(wire.vector_to_bytes(entry.vector)).decode(),
            "checkpointed": base64.b64encode(wire.vector_to_bytes(entry.checkpointed)).decode(),
        }
    )


def _decode_store(raw: bytes, left_ms: int) -> StoreEntry | None:
    """An entry; None, and a word in the log, for one that another version wrote in a form of its own."""
    age_s = max(0, _LIFE_MS - left_ms) / 1000
    try:
        value = json.loads(raw)
        return StoreEntry(
            value["node"], value["region"], value["life"], value["state"],
            _vector(value["vector"]), _vector(value["checkpointed"]), age_s,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, DecodeError) as error:
        _log.warning("a store entry does not parse and is passed over", why=str(error))
        return None


def _vector(text: str) -> Vector:
    return wire.vector_from_bytes(base64.b64decode(text))
