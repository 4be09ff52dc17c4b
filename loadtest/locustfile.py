"""For Locust (extra `load`): people on the real SDK, against a cluster that runs already.

    evertalk up                                                    # or any other cluster
    locust -f loadtest/locustfile.py --host seoul=127.0.0.1:PORT,busan=127.0.0.1:PORT

Locust waits for one answer before it asks again, so its latencies leave out what a stall held back (coordinated
omission); `python -m loadtest` counts from when a send was due. Everybody registers, which costs a password hash each.
"""

from __future__ import annotations

import json
import sys
from itertools import count
from pathlib import Path
from typing import Any

import gevent
from gevent import subprocess
from gevent.event import AsyncResult
from locust import User, between, task


class _People:
    """The SDK's process (people.py), one for all users of this one."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loadtest.people"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        self._ids = count()
        self._asked: dict[int, Any] = {}
        gevent.spawn(self._read)

    def ask(self, **order: Any) -> dict[str, Any]:
        """One order; its answer."""
        number = next(self._ids)
        self._asked[number] = answer = AsyncResult()
        self._process.stdin.write(json.dumps({"id": number, **order}).encode() + b"\n")
        self._process.stdin.flush()
        found: dict[str, Any] = answer.get()
        return found

    def _read(self) -> None:
        for line in self._process.stdout:
            said = json.loads(line)
            self._asked.pop(said["id"]).set(said)
        for answer in self._asked.values():
            answer.set_exception(RuntimeError("the SDK's process has ended"))


_PEOPLE = _People()


class Talker(User):  # type: ignore[misc]  # Locust is untyped where it is not installed
    """Somebody who writes once or twice a second."""

    wait_time = between(0.5, 1.0)

    def on_start(self) -> None:
        """Register, connect, and make a conversation."""
        endpoints = [part.split("=", 1) for part in self.host.split(",")]
        said = _PEOPLE.ask(do="arrive", endpoints=endpoints)
        if said["error"]:
            raise RuntimeError(said["error"])
        self._who = said["who"]

    @task  # type: ignore[untyped-decorator]
    def send(self) -> None:
        """A message, until it is accepted."""
        said = _PEOPLE.ask(do="send", who=self._who)
        self.environment.events.request.fire(
            request_type="evertalk", name="send", response_time=said["ms"], response_length=100,
            exception=RuntimeError(said["error"]) if said["error"] else None, context={},
        )  # fmt: skip
