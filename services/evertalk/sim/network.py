"""A simulated network: ordered connections with delays, that partitions hold up, resets break and deaths end."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Protocol

from evertalk.sim.loop import SimLoop
from evertalk.sim.process import Process

Path = tuple[str, str]
CLIENTS = "clients"
KEEPALIVE_S = 15.0  # after which a connection to a host without power is seen to be dead


class Server(Protocol):
    """The far end of a connection; while it is frozen nothing is taken from the connection."""

    @property
    def place(self) -> str: ...

    @property
    def frozen(self) -> bool: ...

    @property
    def connections(self) -> dict[Connection, None]: ...


class Network:
    """Delays by path, and which paths are cut.

    Args:
        rng: chance of this network.
        wan_s: one way between regions, in seconds, before jitter.
        lan_s: one way within a region.
    """

    def __init__(self, loop: SimLoop, rng: random.Random, wan_s: float = 0.01, lan_s: float = 0.0003) -> None:
        self.loop = loop
        self.rng, self._random = rng, rng.random
        self._wan_s, self._lan_s = wan_s, lan_s
        self.cut_paths: set[Path] = set()
        self.slow: dict[Path, float] = {}  # seconds added to a path
        self.connections: dict[Connection, None] = {}
        self._stalled: dict[Channel, None] = {}
        self.counts: Counter[str] = Counter()  # what happened, for the figures

    def delay_s(self, path: Path) -> float:
        """One message's way: mostly the usual, sometimes much longer."""
        usual = self._lan_s if path[0] == path[1] else self._wan_s
        chance = self._random()
        stretch = 0.5 + chance if chance < 0.97 else 20 * self._random()
        return usual * stretch + self.slow.get(path, 0.0) if self.slow else usual * stretch

    def is_cut(self, path: Path) -> bool:
        return path in self.cut_paths

    def cut(self, *paths: Path) -> None:
        """From now on nothing gets through, and nobody is told (a black hole)."""
        self.cut_paths.update(paths)

    def mend(self, *paths: Path) -> None:
        """What was held up arrives now, as TCP sends it again; without arguments: everything."""
        self.cut_paths.difference_update(paths or set(self.cut_paths))
        self.kick()

    def kick(self) -> None:
        """Something was mended or thawed: look again at what is held up."""
        stalled, self._stalled = self._stalled, {}
        for channel in stalled:
            channel.go_on()

    def stall(self, channel: Channel) -> None:
        """Look at it again after the next `kick`."""
        self._stalled[channel] = None

    def reset(self, path: Path) -> int:
        """Break every connection along a path, in either direction; returns how many."""
        ends = {path, path[::-1]}
        found = [c for c in self.connections if c.path in ends]
        for connection in found:
            connection.reset()
        return len(found)


class Channel:
    """One direction of a connection: in order, delayed, held up while the path is cut or the receiver frozen."""

    __slots__ = ("_armed", "_last", "_network", "_path", "_receiver", "open", "queue")

    def __init__(self, network: Network, path: Path, receiver: Server | None) -> None:
        self._network, self._path, self._receiver = network, path, receiver
        self.queue: deque[tuple[float, Callable[[], Any]]] = deque()
        self._armed = False
        self._last = 0.0
        self.open = True

    def send(self, arrive: Callable[[], Any]) -> None:
        """`arrive` is called when it gets there, if it does."""
        if not self.open:
            return
        network = self._network
        at = network.loop.time() + network.delay_s(self._path)
        if at > self._last:
            self._last = at
        else:
            at = self._last
        self.queue.append((at, arrive))
        if not self._armed:
            self._armed = True
            network.loop.at(at, self._run)

    def _arm(self, at: float) -> None:
        self._armed = True
        self._network.loop.at(at, self._run)

    def go_on(self) -> None:
        """Look again."""
        if self.open and self.queue and not self._armed:
            self._arm(max(self.queue[0][0], self._network.loop.time() + self._network.delay_s(self._path)))

    @property
    def held_up(self) -> bool:
        """True if nothing would arrive now."""
        receiver = self._receiver
        return self._path in self._network.cut_paths or (receiver is not None and receiver.frozen)

    def _run(self) -> None:
        self._armed = False
        network, queue = self._network, self.queue
        now = network.loop.time()
        while queue and queue[0][0] <= now:  # closed, it is empty
            if self.held_up:
                network.stall(self)
                return
            queue.popleft()[1]()
        if queue and not self._armed:
            self._arm(queue[0][0])

    def close(self) -> None:
        """Nothing more arrives."""
        self.open = False
        self.queue.clear()


class Connection:
    """Between a process and a server. Each end sets what it is to be told: `client_ended`, `server_ended`."""

    def __init__(self, network: Network, client: Process, server: Server) -> None:
        self.path = (client.place, server.place)
        self.up = Channel(network, self.path, server)
        self.down = Channel(network, (server.place, client.place), None)
        self.client_ended: Callable[[], None] = _nothing
        self.server_ended: Callable[[], None] = _nothing
        self.open = True
        self._network, self._client, self._server = network, client, server
        network.connections[self] = None
        client.connections[self] = None
        server.connections[self] = None

    def _forget(self) -> None:
        self.open = False
        self._network.connections.pop(self, None)
        self._client.connections.pop(self, None)
        self._server.connections.pop(self, None)

    def reset(self) -> None:
        """Broken in the middle: both ends learn of it, what was under way is gone."""
        if self.open:
            self._forget()
            self.up.close()
            self.down.close()
            self.client_ended()
            self.server_ended()

    def died(self, end: object) -> None:
        """One end is gone: its kernel tells the other, behind what was sent before, if anything gets through."""
        if not self.open:
            return
        self._forget()
        mine, theirs = (self.up, self.down) if end is self._client else (self.down, self.up)
        theirs.close()
        if mine.held_up:
            mine.queue.clear()  # what had not left its host never will
        told = self.server_ended if end is self._client else self.client_ended
        mine.send(lambda: self._last(mine, told))

    def _last(self, channel: Channel, told: Callable[[], None]) -> None:
        channel.close()
        told()

    def vanish(self) -> None:
        """An end lost its power: nobody is told, and the other end, which thinks it open, finds out by waiting."""
        if self.open:
            self._forget()
            self.open = True
            self.up.close()
            self.down.close()
            loop = self._network.loop
            for ended in (self.client_ended, self.server_ended):
                loop.at(loop.time() + KEEPALIVE_S, ended)


def _nothing() -> None:
    """Nobody wants to know."""
