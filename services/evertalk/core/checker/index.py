"""A history in the form that the checks ask it: each send with all that was told of it, and who was down when."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from evertalk.core.history import (
    FIRST_LINE,
    Converged,
    Fault,
    Final,
    Gap,
    Gone,
    History,
    Invoke,
    Mark,
    Read,
    Received,
    Record,
    Returned,
    Told,
)
from evertalk.core.ids import region_of

#: Kinds that clients send by hand: every one that is received must have been invoked.
SENT = frozenset({"message", "edit", "delete", "react"})


@dataclass(slots=True)
class Send:
    """One invocation and everything that was told of it, each with its line."""

    invoke: Invoke
    line: int
    accepted: list[tuple[int, Told]] = field(default_factory=list)
    replicated: tuple[int, Told] | None = None
    failed: tuple[int, Told] | None = None
    unknown: tuple[int, Told] | None = None
    released: bool = False
    deletions: list[Send] = field(default_factory=list)
    settled: float | None = None  # when the first answer came

    @property
    def key(self) -> tuple[int, str]:
        """The sort key: (hlc, id)."""
        return (self.invoke.hlc, self.invoke.id)

    @property
    def acked(self) -> bool:
        """ACCEPTED or REPLICATED."""
        return bool(self.accepted) or self.replicated is not None

    @property
    def failed_definitely(self) -> bool:
        """Told "failed", and nothing that says it may have been written after all."""
        return self.failed is not None and not self.acked and self.unknown is None

    def may_be_deleted(self, by: float = math.inf) -> bool:
        """Somebody asked for its deletion by then, and that has not failed definitely."""
        return any(d.invoke.t <= by and not d.failed_definitely for d in self.deletions)

    @property
    def acks(self) -> list[tuple[int, Told]]:
        """Its acknowledgements with their lines."""
        return [*self.accepted, *([self.replicated] if self.replicated else [])]

    @property
    def ack_lines(self) -> tuple[int, ...]:
        """Lines of its acknowledgements."""
        return tuple(line for line, _ in self.acks)


class Outage(NamedTuple):
    """A region was away from `start` to `end` (infinite: to the end of the run)."""

    region: str
    start: float
    end: float
    effect: str
    line: int


@dataclass(slots=True)
class Index:
    """A history, sorted by what the checks need. Lists of (line, record) are in order of lines."""

    history: History
    sends: dict[str, Send] = field(default_factory=dict)
    invoked_again: list[tuple[int, Invoke]] = field(default_factory=list)
    told_strays: list[tuple[int, Told]] = field(default_factory=list)
    received: list[tuple[int, Received]] = field(default_factory=list)
    reads: list[tuple[int, Read]] = field(default_factory=list)
    gaps: list[tuple[int, Gap]] = field(default_factory=list)
    gone: list[tuple[int, Gone]] = field(default_factory=list)
    faults: list[tuple[int, Fault]] = field(default_factory=list)
    returns: list[tuple[int, Returned]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    finals: list[tuple[int, Final]] = field(default_factory=list)
    converged: Converged | None = None
    outages: list[Outage] = field(default_factory=list)
    dead_origins: frozenset[str] = frozenset()
    lost_clients: frozenset[str] = frozenset()

    def must_be_held(self, send: Send) -> bool:
        """True if a promise says that every replica ends with this event, deletions aside (P1, P2).

        REPLICATED always; ACCEPTED unless every origin that accepted it took it to its grave, and its outbox
        had let go of it or was gone with its client.
        """
        if send.replicated is not None:
            return True
        if not send.accepted:
            return False
        if any(told.origin not in self.dead_origins for _, told in send.accepted):
            return True
        return not (send.released or send.invoke.client in self.lost_clients)

    def end_of_load(self) -> float:
        """When the final reads began, or else the last record's time."""
        if self.finals:
            return self.finals[0][1].t
        return max((record.t for record in self.history.records), default=0.0)


def indexed(history: History) -> Index:
    """Sort a history; O(records)."""
    out = Index(history)
    deletions: list[Send] = []
    for line, record in enumerate(history.records, FIRST_LINE):
        match record:
            case Received():
                out.received.append((line, record))
            case Told():
                _told(out, line, record)
            case Invoke():
                send = Send(record, line)
                if out.sends.setdefault(record.id, send) is not send:
                    out.invoked_again.append((line, record))
                elif record.op == "delete":
                    deletions.append(send)
            case _:
                _other(out, line, record)
    for send in deletions:
        target = out.sends.get(send.invoke.target[1]) if send.invoke.target else None
        if target is not None:
            target.deletions.append(send)
    _who_was_down(out)
    return out


def _told(out: Index, line: int, told: Told) -> None:
    send = out.sends.get(told.id)
    if send is None:
        out.told_strays.append((line, told))
        return
    match told.outcome:
        case "accepted":
            send.accepted.append((line, told))
        case "replicated":
            send.replicated = send.replicated or (line, told)
        case "failed":
            send.failed = send.failed or (line, told)
        case "unknown":
            send.unknown = send.unknown or (line, told)
        case _:
            send.released = True
            return
    if send.settled is None:
        send.settled = told.t


def _other(out: Index, line: int, record: Record) -> None:
    match record:
        case Read():
            out.reads.append((line, record))
        case Gap():
            out.gaps.append((line, record))
        case Gone():
            out.gone.append((line, record))
        case Fault():
            out.faults.append((line, record))
        case Returned():
            out.returns.append((line, record))
        case Mark():
            out.marks.append(record)
        case Final():
            out.finals.append((line, record))
        case Converged():
            out.converged = record
        case _:
            pass  # connections, hedges and gauges are for people


def back_at(out: Index, fault: Fault) -> float:
    """When the target of a fault was there again; infinite if never."""
    if fault.until is not None:
        return fault.until
    return next((r.t for _, r in out.returns if r.target == fault.target and r.t >= fault.t), math.inf)


def region_of_told(told: Told) -> str:
    """Region that accepted."""
    return told.region or region_of(told.origin)


def _who_was_down(out: Index) -> None:
    regions = set(out.history.header.cluster.regions)
    out.outages = [
        Outage(fault.target, fault.t, back_at(out, fault), fault.effect, line)
        for line, fault in out.faults
        if fault.effect and fault.target in regions
    ]
    out.dead_origins = frozenset(
        told.origin
        for send in out.sends.values()
        for _, told in send.accepted
        # An ack on its way when the region died still comes from the life that died.
        if any(
            o.region == region_of_told(told) and told.t < o.end and (o.effect == "lost" or o.end == math.inf)
            for o in out.outages
        )
    )
    before_finals = out.finals[0][0] if out.finals else math.inf
    out.lost_clients = frozenset(gone.client for line, gone in out.gone if not gone.kept and line < before_finals)
