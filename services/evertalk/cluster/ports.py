"""Ports on this machine for what a cluster starts: each controller has a stretch of its own, for its dead ones too."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import tempfile
import threading
from functools import cache
from pathlib import Path

from evertalk.cluster.verbs import ClusterError

HOST = "127.0.0.1"
#: Below every system's range of ephemeral ports: no outgoing connection can sit on a port meanwhile.
_PORTS = range(15_000, 32_000)
_STRETCH = 500


def free_ports(count: int) -> list[int]:
    """Ports on 127.0.0.1 that nobody listens on now.

    A process that was killed will want its port again, so nobody else is given one of the same stretch while this
    process lives, and here its turn comes again only after all the others of the stretch.

    Raises:
        ClusterError: there are not enough.
    """
    found = _stretch().free(count)
    if len(found) < count:
        raise ClusterError(f"a cluster needs {count} free ports on {HOST}, and only {len(found)} are")
    return found


def port_is_free(port: int) -> bool:
    """True if a server could listen on it now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


class _Stretch:
    """Ports that are given out in turn."""

    def __init__(self, ports: range, first: int = 0) -> None:
        self._ports = ports
        self._next = first
        self._turn = threading.Lock()

    def free(self, count: int) -> list[int]:
        found: list[int] = []
        with self._turn:
            for _ in range(len(self._ports)):
                if len(found) == count:
                    break
                port = self._ports[self._next % len(self._ports)]
                self._next += 1
                if port_is_free(port):
                    found.append(port)
        return found


@cache
def _stretch() -> _Stretch:
    """One that no other process of this user has; where there is none left, all ports from somewhere on."""
    starts = list(_PORTS[::_STRETCH])
    secrets.SystemRandom().shuffle(starts)
    for start in starts:
        if _lock(start):
            return _Stretch(range(start, start + _STRETCH))
    return _Stretch(_PORTS, secrets.randbelow(len(_PORTS)))


def _lock(start: int) -> bool:
    """True if the stretch is ours now; the system takes the lock back when this process ends."""
    place = Path(tempfile.gettempdir()) / f"evertalk-ports-{os.getuid()}"
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(place / str(start), os.O_CREAT | os.O_RDWR, 0o600)
    except OSError:
        return False  # no such directory can be had here: ports are shared then
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return False
    return True
