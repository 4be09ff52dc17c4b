"""Replay of a real conversation: each speaker a user, each line a message, each said after its speaker saw the last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from evertalk.adapters.wire import decode_delivery
from evertalk.core import limits
from evertalk.core.errors import EvertalkError
from evertalk.core.model import Applied, Message
from evertalk.core.transcript import Line, Transcript
from evertalk.drill.people import Person
from evertalk.ports import Transport
from evertalk.v1 import chat_pb2

_HISTORY = "evertalk.v1.ChatService/History"
_PAGE = 500
_SEEN_S = 30.0


class ReplayFailed(EvertalkError):
    """The transcript cannot be played, or did not come back as it is in the file."""


def speakers(transcript: Transcript) -> list[str]:
    """Who speaks, in order of appearance."""
    return list(dict.fromkeys(line.speaker for line in transcript.lines))


def check_playable(transcript: Transcript) -> None:
    """Refuse what no node would accept.

    Raises:
        ReplayFailed
    """
    for number, line in enumerate(transcript.lines, 1):
        size = len(line.text.encode())
        if size > limits.MAX_TEXT_BYTES:
            raise ReplayFailed(
                f"message {number} of the transcript, by {line.speaker}, has {size} bytes; "
                f"a message has at most {limits.MAX_TEXT_BYTES}"
            )
    if len(speakers(transcript)) > limits.MAX_MEMBERS:
        raise ReplayFailed(f"the transcript has more than {limits.MAX_MEMBERS} speakers")


class Seen:
    """Which messages each person has been shown, for waiting on one."""

    def __init__(self) -> None:
        self._shown: dict[str, set[bytes]] = {}
        self._moved = asyncio.Event()

    def note(self, person: str, applied: Applied) -> None:
        """A person was shown an event."""
        self._shown.setdefault(person, set()).add(applied.event.id)
        self._moved.set()
        self._moved = asyncio.Event()

    async def wait(self, person: str, id: bytes) -> None:
        """Until that person was shown that event.

        Raises:
            TimeoutError: not within 30 s.
        """
        async with asyncio.timeout(_SEEN_S):
            while id not in self._shown.get(person, ()):
                await self._moved.wait()


async def play(
    transcript: Transcript, cast: dict[str, Person], scope: bytes, seen: Seen, began: float, seconds: float
) -> None:
    """Say every line in order, spread evenly over `seconds`, faster than nobody can read.

    Args:
        cast: person of each speaker.
        began: monotonic time of the start of the load.
    """
    last: tuple[str, bytes] | None = None
    step = seconds / max(len(transcript.lines), 1)
    for number, line in enumerate(transcript.lines):
        if (ahead := began + number * step - time.monotonic()) > 0:
            await asyncio.sleep(ahead)
        person = cast[line.speaker]
        if last is not None and last[0] != person.name:
            await seen.wait(person.name, last[1])
        sent = await person.client.post(scope, line.text)
        last = (person.name, sent.event.id)


async def read_back(
    transport: Transport, address: str, token: str, scope: bytes, shards: int, name_of: Callable[[bytes], str]
) -> list[tuple[str, str]]:
    """(speaker, text) of every message of a conversation, as one node shows it."""
    peer = transport.peer(address)
    found: list[tuple[str, str]] = []
    before: chat_pb2.Cursor | None = None
    try:
        while True:
            request = chat_pb2.HistoryRequest(conversation=scope, limit=_PAGE, before=before)
            page = await peer.call(_HISTORY, request, 20.0, token)
            part = []
            for delivery in page.messages:
                event = decode_delivery(delivery, shards).event
                assert isinstance(event.body, Message)
                part.append((name_of(event.sender), event.body.text))
            found[:0] = part
            if not page.HasField("next"):
                return found
            before = page.next
    finally:
        await peer.close()


def difference(lines: Sequence[Line], found: Sequence[tuple[str, str]]) -> str:
    """Empty if the conversation equals the file; else one sentence about the first place where it does not."""
    wanted = [(line.speaker, line.text) for line in lines]
    for number, (one, other) in enumerate(zip(wanted, found, strict=False), 1):
        if one != other:
            return f"message {number} should be {one[0]}: {one[1][:60]!r} and is {other[0]}: {other[1][:60]!r}"
    if len(wanted) != len(found):
        return f"the file has {len(wanted)} messages, the conversation {len(found)}"
    return ""
