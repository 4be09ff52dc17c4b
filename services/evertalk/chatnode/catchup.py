"""Ask whoever is ahead (R8): Export from other stores, at start, over gaps, and whenever reading does not help."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from evertalk.adapters.tokens import CLUSTER, Keyring
from evertalk.adapters.wire import decode_batch, decode_graves, decode_rows, decode_vector
from evertalk.chatnode.node import Node
from evertalk.chatnode.tail import Tailer
from evertalk.core import limits
from evertalk.core.errors import PeerUnavailable, Refused
from evertalk.core.ids import region_of
from evertalk.core.model import Row, Stream
from evertalk.core.replication import born_ms
from evertalk.core.vector import Hole, Key, Vector
from evertalk.ports import BoardReader, Peer, StoreEntry, Tail, Transport
from evertalk.v1 import cluster_pb2

_SERVICE = "evertalk.v1.ClusterService/"
_CALL_S = 5.0
_ASK_S = 1.0
_START_ROUND_S = 0.25
_HEAR_S = 4.0
#: Rounds in which no live holder could fill a gap before it is passed as a hole.
_HOLE_ROUNDS = 3


class CatchUp:
    """Imports what this store cannot read from its region's Redis."""

    def __init__(
        self, node: Node, tailer: Tailer, transport: Transport, keyring: Keyring, board: BoardReader, again: Tail
    ) -> None:
        self._node = node
        self._tailer = tailer
        self._transport = transport
        self._keyring = keyring
        self._board = board
        self._again = again  # reads ranges that the tailer has passed
        self._peers: dict[str, Peer] = {}
        self._last_seen = Vector()
        self._was_behind = Vector()
        self._unfillable: dict[tuple[str, int], int] = {}
        self._pages: dict[str, int] = {}  # store -> rows a page that got through: a narrow link breaks large ones off
        self._asked: dict[str, frozenset[str]] = {}  # store -> origins that it did not know to be folded

    def _addresses(self) -> dict[str, str]:
        settings = self._node.settings
        known = dict(settings.neighbours)
        for peer in settings.peers.values():
            known.update(peer.nodes)
        known.pop(settings.node, None)
        return known

    async def _call(self, name: str, method: str, request: object, timeout_s: float = _CALL_S) -> object:
        peer = self._peers.get(name)
        if peer is None:
            peer = self._peers[name] = self._transport.peer(self._addresses()[name])
        token, _ = self._keyring.mint(self._node.settings.node, CLUSTER, self._node.clock.wall_ms(), 60)
        return await peer.call(_SERVICE + method, request, timeout_s, token)

    async def close(self) -> None:
        """Close connections to other nodes."""
        for peer in self._peers.values():
            await peer.close()

    # ------------------------------------------------------------ start

    async def _ask(self, name: str) -> tuple[str, Vector] | None:
        try:
            answer = await self._call(name, "Status", cluster_pb2.StatusRequest(), _ASK_S)
        except (PeerUnavailable, Refused):
            return None
        assert isinstance(answer, cluster_pb2.StatusResponse)
        return name, decode_vector(answer.vector)

    async def statuses(self) -> dict[str, Vector]:
        """Vectors of every other node that answers within a second."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask(name)) for name in self._addresses()]
        return dict(r for t in tasks if (r := t.result()) is not None)

    async def start(self) -> None:
        """Until this store covers what its reachable peers had when it started; then clients may come (R8)."""
        node = self._node
        vectors = await self.statuses()
        target = Vector()
        for vector in vectors.values():
            target.merge(vector)
        node.log.info("catching up", peers=sorted(vectors), behind=_distance(target, node.store.vector))
        if vectors and not node.store.vector:
            await self._import_best(
                vectors, target
            )  # an empty store: rows are fewer than entries, and reach further back
        while not node.store.vector.reaches(target):
            before = node.store.vector.copy()
            try:
                async with asyncio.timeout(_START_ROUND_S):
                    await node.progress.wait()
            except TimeoutError:
                pass
            missing = node.store.vector.missing(target)
            stuck = Vector({k: p for k, p in missing if node.store.vector[k] == before[k]})
            if stuck:
                await self._import_best(vectors, stuck)
                vectors = await self.statuses()
                reachable = Vector()
                for vector in vectors.values():
                    reachable.merge(vector)
                # Who has gone meanwhile cannot be waited for.
                target = Vector({k: min(p, max(reachable[k], node.store.vector[k])) for k, p in target})
        await self._hear_peers(vectors)
        node.log.info("caught up")

    async def _hear_peers(self, answered: Iterable[str]) -> None:
        """Until regions that answered are heard of on the board too, so that clients are told the truth of them."""
        node = self._node
        names = set(answered)
        regions = {region for region, peer in node.settings.peers.items() if names & set(peer.nodes)}
        try:
            async with asyncio.timeout(_HEAR_S):
                while not regions <= set(node.live_peers()):
                    await node.published.wait()
        except TimeoutError:
            node.log.warning("a region answers but is not heard of: is its replicator or ours down?")

    async def _import_best(self, vectors: dict[str, Vector], wanted: Vector) -> bool:
        """Export from the store that fills most of `wanted`; from a neighbour first, for what it lacks is little, and
        others' rows come over the WAN."""
        mine = self._node.store.vector

        def gain(name: str) -> tuple[bool, int]:
            ahead = vectors[name].ahead_of(mine)
            gained = sum(1 for key, _ in wanted if ahead[key])
            return gained > 0 and name in self._node.settings.neighbours, gained

        for name in sorted(vectors, key=gain, reverse=True):
            if gain(name)[1] == 0:
                return False
            if await self.import_from(name):
                return True
        return False

    # ------------------------------------------------------------ running

    async def round(self, stores: Iterable[StoreEntry]) -> None:
        """Once a second: import where a live store is ahead and reading has not moved us since the last round."""
        node = self._node
        async with node.writing:
            await self._tailer.hand_out()  # what broke off in the last round, however it did
        vectors = {s.node: s.vector for s in stores if s.node in self._addresses() and s.age_s <= limits.STORE_LIVE_S}
        mine = node.store.vector
        gone = node.store.folded - node.origins.keys()  # forgotten here: who came back with them lets go of them soon
        wanted: dict[tuple[str, int], int] = {}
        for vector in vectors.values():
            for key, position in vector.ahead_of(mine):
                if key[0] in gone:
                    continue
                stuck = mine[key] == self._last_seen[key] and self._was_behind[key] > mine[key]
                hole = mine[key] >= position
                if stuck or hole or key in self._tailer.gaps:
                    wanted[key] = max(wanted.get(key, 0), position)
        behind = Vector()
        for vector in vectors.values():
            behind.merge(vector)
        self._was_behind, self._last_seen = behind, mine.copy()
        if wanted:
            await self._import_best(vectors, Vector(wanted))
        await self._learn_folded(vectors)
        await self._pass_unfillable(vectors)
        for passed in sorted(node.store.vector.holes):
            await self._read_hole(passed)

    async def _learn_folded(self, vectors: dict[str, Vector]) -> None:
        """An old origin that no board names may have been folded and forgotten while this node was away: stores keep
        the names of those for ever, so each one is asked once (R16)."""
        node = self._node
        too_old = node.region_time_ms() - limits.MAX_AGE_MS
        strange = {
            origin
            for origin in node.store.vector.origins() - node.origins.keys() - node.store.folded
            if (born_ms(origin) or too_old) < too_old
        }
        for name in vectors:
            if strange - self._asked.get(name, frozenset()) and await self.import_from(name):
                self._asked[name] = frozenset(strange)
                return

    async def _pass_unfillable(self, vectors: dict[str, Vector]) -> None:
        """A gap that no live store can fill, several rounds running, becomes a named hole (R6)."""
        mine = self._node.store.vector
        for key, beyond in list(self._tailer.gaps.items()):
            fillable = any(v[key] > mine[key] for v in vectors.values())
            rounds = 0 if fillable else self._unfillable.get(key, 0) + 1
            self._unfillable[key] = rounds
            if rounds < _HOLE_ROUNDS:
                continue
            if await self._readable(Hole(*key, mine[key] + 1, mine[key] + 1)):
                self._tailer.gaps.pop(key, None)  # its mirror has come meanwhile
                continue
            asked = await self.statuses()
            if any(v[key] > mine[key] for v in asked.values()):
                await self._import_best(asked, Vector({key: beyond - 1}))
                continue
            async with self._node.writing:
                if key in self._tailer.gaps:
                    await self._tailer.pass_gap(key)
        self._unfillable = {k: r for k, r in self._unfillable.items() if k in self._tailer.gaps}

    def _stream(self, key: Key) -> Stream:
        return Stream(*key, mirror=region_of(key[0]) != self._node.settings.region)

    async def _readable(self, wanted: Hole) -> Hole | None:
        """The part of a range that an own stream holds."""
        stream = self._stream((wanted.origin, wanted.shard))
        state = (await self._board.streams([stream])).get(stream)
        if state is None:
            return None
        first, last = max(wanted.first, state.floor + 1), min(wanted.last, state.last)
        return Hole(wanted.origin, wanted.shard, first, last) if first <= last else None

    async def _read_hole(self, passed: Hole) -> None:
        """What an own stream holds of a hole by now is filled from there."""
        hole = await self._readable(passed)
        if hole is None:
            return
        key = (hole.origin, hole.shard)
        node, cursor = self._node, hole.first - 1
        while cursor < hole.last:
            read = await self._again.read({self._stream(key): cursor}, 0.01)
            if not read.entries or read.entries[0].position != cursor + 1:
                return  # trimmed meanwhile
            cursor = read.entries[-1].position
            rows = [
                Row(record.event, record.accepted_at, ((hole.origin, raw.position),))
                for raw in read.entries
                for record in decode_batch(raw.payload)
            ]
            async with node.writing:
                await self._tailer.import_rows(rows)
        async with node.writing:
            below = [Hole(*key, 1, hole.first - 1)] if hole.first > 1 else []  # not read here
            await node.store.finish_import("own streams", "", 0, Vector({key: hole.last}, below), ())
            await self._tailer.import_finished()
        self._note_filled(hole)

    def _note_filled(self, hole: Hole) -> None:
        self._node.log.info("hole filled", origin=hole.origin, shard=hole.shard, first=hole.first, last=hole.last)

    async def import_from(self, name: str) -> bool:
        """Every page of one store's Export since the last time; False if it broke off (cursors stay, R9)."""
        node, store = self._node, self._node.store
        life, change = await store.bookmark(name)
        start: Vector | None = None
        rows = 0
        limit = self._pages.get(name, limits.EXPORT_PAGE)
        while True:
            request = cluster_pb2.ExportRequest(life=life, after_change=change, limit=limit)
            try:
                page = await self._call(name, "Export", request)
                assert isinstance(page, cluster_pb2.ExportResponse)
                found, graves = decode_rows(page.rows), decode_graves(page.graves)
            except (PeerUnavailable, Refused) as error:
                node.log.warning("export broke off", source=name, reason=str(error))
                self._pages[name] = max(1, limit // 2)
                return False
            if start is not None and page.life != life:
                return False  # the other store began anew between two pages
            life, change = page.life, page.next_change
            start = start or decode_vector(page.vector)
            async with node.writing:
                await self._tailer.import_rows(found, graves, start, name)
                rows += len(page.rows)
                if page.last:
                    holes = store.vector.holes
                    await store.finish_import(name, life, change, start, page.folded)
                    await self._tailer.import_finished(name)
                    for hole in sorted(holes):
                        for part in store.vector.parts_held(hole):
                            self._note_filled(part)
                    self._pages[name] = min(2 * limit, limits.EXPORT_PAGE)
                    node.log.info("imported", source=name, rows=rows)
                    return True


def _distance(target: Vector, mine: Vector) -> int:
    return sum(max(0, p - mine[k]) for k, p in target)
