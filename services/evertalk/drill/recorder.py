"""Collects the history of a drill from clients that run concurrently in one process, and writes and reads its file."""

from __future__ import annotations

import gzip
import itertools
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from evertalk.core.history import OPS, Header, History, HistoryDamaged, Shown, body_digest
from evertalk.core.history_lines import end_line, from_lines, header_line, line_of
from evertalk.core.merge import target_of
from evertalk.core.model import Applied, Event, Message
from evertalk.core.vector import Vector

HISTORY = "history.jsonl.gz"

Id = bytes | str  # bytes, or their lower-case hex


class Recorder:
    """Takes down what happens, in the order of the calls; the cost of a call is one tuple.

    Ids may be given as bytes; they become hex when the file is written. Every record is stamped with the time of
    its call, in seconds since the recorder was made.

    Args:
        header: line 1 of the history.
        monotonic: the controller's one clock.
    """

    def __init__(self, header: Header, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.header = header
        self._monotonic = monotonic
        self._start = monotonic()
        # Plain tuples of strings, bytes and numbers: the garbage collector soon stops looking at them.
        self._records: list[tuple[Any, ...]] = []

    def now(self) -> float:
        """Seconds since the start of the run."""
        return round(self._monotonic() - self._start, 6)

    def _add(self, word: str, *values: Any) -> None:
        self._records.append((word, self.now(), *values))

    # ------------------------------------------------------------ clients

    def record_invoke(
        self,
        client: str,
        session: Id,
        op: int | str,
        conversation: Id,
        sender: Id,
        id: Id,
        hlc: int,
        body: str = "",
        reply_to: tuple[Id, Id] | None = None,
        target: tuple[Id, Id] | None = None,
        need: Iterable[tuple[str, int]] = (),
    ) -> None:
        """A client asks for an event to be sent, before its first attempt; see `history.Invoke`.

        Args:
            op: a Kind, or its word in `history.OPS`.
            body: `history.body_digest` of the event.
        """
        word = _word(op)
        self._add("invoke", client, session, word, conversation, sender, id, hlc, body, reply_to, target, tuple(need))

    def record_send(self, client: str, event: Event) -> None:
        """The same from an event."""
        body, target = event.body, target_of(event)
        replies = isinstance(body, Message) and body.reply_to
        self.record_invoke(
            client,
            event.session,
            event.kind,
            event.scope,
            event.sender,
            event.id,
            event.hlc,
            body_digest(event),
            (body.reply_to_sender, body.reply_to) if isinstance(body, Message) and replies else None,
            (target.sender, target.id) if target else None,
            event.need,
        )

    def record_accepted(
        self, client: str, id: Id, origin: str, shard: int, position: int, node: str, region: str
    ) -> None:
        """The SDK told the application ACCEPTED."""
        self._add("told", client, id, "accepted", "", origin, shard, position, node, region)

    def record_told(self, client: str, id: Id, outcome: str, code: str = "") -> None:
        """The SDK told the application "replicated", "failed", "unknown" or "released" (`history.OUTCOMES`)."""
        self._add("told", client, id, outcome, code, "", 0, 0, "", "")

    def record_received(
        self,
        client: str,
        session: Id,
        conversation: Id,
        id: Id,
        sender: Id,
        hlc: int,
        kind: int | str,
        body: str,
        origin: str,
        position: int,
        late: bool = False,
        parent_missing: bool = False,
    ) -> None:
        """The SDK shows an event to the application; see `history.Received`."""
        self._add(
            "received", client, session, conversation, id, sender, hlc, _word(kind), body, origin, position,
            late, parent_missing,
        )  # fmt: skip

    def record_delivery(self, client: str, session: Id, applied: Applied) -> None:
        """The same from what the SDK shows."""
        event = applied.event
        self.record_received(
            client,
            session,
            event.scope,
            event.id,
            event.sender,
            event.hlc,
            event.kind,
            body_digest(event),
            applied.origin,
            applied.position,
            applied.late,
            applied.parent_missing,
        )

    def record_gap(self, client: str, session: Id, missing: Vector) -> None:
        """The SDK told the application `gap`."""
        self._add("gap", client, session, tuple((o, s, p) for (o, s), p in sorted(missing)))

    def record_read(
        self,
        client: str,
        session: Id,
        conversation: Id,
        ids: Iterable[Id],
        asked: float,
        whole: bool = True,
        gap: bool = False,
        parent_missing: Iterable[Id] = (),
    ) -> None:
        """A read of history up to the newest message returned.

        Args:
            ids: of the visible messages, in the order they came; pages joined.
            asked: `now()` before the first page was asked for.
            whole: from the first message of the conversation.
            gap: a page said gap.
            parent_missing: of `ids`, those that were marked so.
        """
        self._add("read", asked, client, session, conversation, tuple(ids), whole, gap, tuple(parent_missing))

    def record_gone(self, client: str, session: Id, kept: bool = False) -> None:
        """A client's process died or was closed; `kept`: its outbox is on disk and will be opened again."""
        self._add("gone", client, session, kept)

    def record_connected(self, client: str, region: str, node: str) -> None:
        self._add("connected", client, region, node)

    def record_disconnected(self, client: str, region: str, node: str) -> None:
        self._add("disconnected", client, region, node)

    def record_hedged(self, client: str, region: str, node: str) -> None:
        self._add("hedged", client, region, node)

    # ------------------------------------------------------------ the world

    def record_fault(self, verb: str, target: str, effect: str) -> int:
        """A fault begins; call it just before doing it. Returns a handle for `end_fault`.

        Args:
            target: a region or node by its name in the header, or anything else.
            effect: what it does to the target, see `history.EFFECTS`.
        """
        self._add("fault", verb, target, None, effect)
        return len(self._records) - 1

    def end_fault(self, fault: int) -> None:
        """The fault was ended (thawed, mended, restarted)."""
        word, t, verb, target, _, effect = self._records[fault]
        self._records[fault] = (word, t, verb, target, self.now(), effect)

    def record_returned(self, target: str) -> None:
        """A region or node that a fault had taken away runs again."""
        self._add("returned", target)

    def record_watermark(self, holder: str, origin: str, shard: int, position: int) -> None:
        """Region `holder` announced that it holds (origin, shard) up to `position`."""
        self._add("watermark", holder, origin, shard, position)

    def record_converged(self, timed_out: bool = False) -> None:
        """All replicas have equal digests; or the wait for that was given up."""
        self._add("converged", timed_out)

    def record_final(
        self,
        node: str,
        region: str,
        conversation: Id,
        messages: Sequence[Event | Shown],
        digest: str,
        vector: Vector | None = None,
    ) -> None:
        """What one replica shows of one conversation at the end: once for each of its conversations."""
        shown = tuple(m if isinstance(m, Shown) else shown_of(m) for m in messages)
        positions = {f"{origin}/{shard}": p for (origin, shard), p in sorted(vector or ())}
        self._add("final", node, region, conversation, shown, digest, positions)

    def record_gauge(self, name: str, value: float, target: str = "") -> None:
        """Anything measured."""
        self._add("gauge", name, value, target)

    # ------------------------------------------------------------ the file

    def lines(self) -> Iterator[str]:
        """The history's lines as they stand."""
        yield header_line(self.header)
        for word, *values in self._records:
            yield line_of(word, values)
        yield end_line(len(self._records))

    def history(self) -> History:
        """The history as the checker takes it, without a file between."""
        return from_lines(self.lines())

    def close(self, directory: Path) -> Path:
        """Write the history into `directory` (made if need be); returns its file. Blocks for seconds if it is long.

        Raises:
            OSError
        """
        return write_lines(directory, self.lines())

    def forget(self) -> None:
        """Let go of what is in the file by now: who judges it reads that, and both would take twice the memory."""
        self._records.clear()


def shown_of(event: Event) -> Shown:
    """A visible message as a final read records it."""
    return Shown(event.hlc, event.id.hex(), event.sender.hex(), body_digest(event), _word(event.kind))


def _word(op: int | str) -> str:
    return op if isinstance(op, str) else OPS.get(op, f"kind-{int(op)}")


def write_lines(directory: Path, lines: Iterable[str]) -> Path:
    """Write a history's lines: the same lines give the same bytes, and the file is whole or not there."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / HISTORY
    draft = path.with_name(path.name + ".part")
    rest = iter(lines)
    with draft.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
        while some := list(itertools.islice(rest, 1000)):
            file.write("".join(f"{line}\n" for line in some).encode())
    os.replace(draft, path)
    return path


def read_history(directory: Path) -> History:
    """The history of a drill's directory.

    Raises:
        HistoryDamaged: one sentence that says what is wrong with the file.
    """
    path = directory / HISTORY
    try:
        with gzip.open(path, "rb") as file:
            return from_lines(file)
    except FileNotFoundError as error:
        raise HistoryDamaged(f"there is no {HISTORY} in {directory}") from error
    except EOFError as error:
        raise HistoryDamaged(f"{HISTORY} is truncated: its compressed data stop in the middle") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise HistoryDamaged(f"{HISTORY} is corrupt: {error}") from error
    except OSError as error:
        raise HistoryDamaged(f"{HISTORY} cannot be read: {error.strerror}") from error


__all__ = ["HISTORY", "Recorder", "read_history", "shown_of", "write_lines"]
