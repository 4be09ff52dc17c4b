"""The figures of a run: counts, losses, times, and the limits they are held against."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

from evertalk.core.checker.index import Index, Outage, Send, back_at, region_of_told
from evertalk.core.checker.report import Limit

GAP_CRASH_MS = 1000.0  # P6
GAP_HANG_MS = 2000.0  # P6
CONVERGED_S = 30.0  # P7


def counts(index: Index) -> dict[str, int]:
    """How many of what; failed and unknown are sends, the latter with those that were still open at the end."""
    sends = index.sends.values()
    return {
        "invoked": len(sends),
        "accepted": sum(1 for s in sends if s.accepted),
        "replicated": sum(1 for s in sends if s.replicated),
        "failed": sum(1 for s in sends if s.failed_definitely),
        "unknown": sum(1 for s in sends if not s.acked and not s.failed_definitely),
        "delivered": len(index.received),
        "gaps": len(index.gaps) + sum(1 for _, read in index.reads if read.gap),
        "late": len({r.id for _, r in index.received if r.late}),
    }


def percentiles(ms: Iterable[float]) -> dict[str, float | None]:
    """p50, p99 (nearest rank) and max of milliseconds."""
    values = sorted(ms)
    if not values:
        return {"p50": None, "p99": None, "max": None}
    return {
        "p50": round(values[math.ceil(0.50 * len(values)) - 1], 1),
        "p99": round(values[math.ceil(0.99 * len(values)) - 1], 1),
        "max": round(values[-1], 1),
    }


def gap_ms(index: Index) -> dict[str, float | None]:
    """Per client, the longest time without an acknowledged send while at least one was outstanding.

    A send is outstanding from its invocation to its first answer. A stretch begins with an invocation when none
    was outstanding, or with an acknowledgement that leaves some; it ends with the next acknowledgement, when none
    is outstanding, or with the client or the load. If there was a fault, only stretches that ended after the
    first one count, so that the warm-up does not.
    """
    after = min((fault.t for _, fault in index.faults), default=-math.inf)
    by_client: dict[str, list[tuple[float, int, str]]] = defaultdict(list)
    for send in index.sends.values():
        events = by_client[send.invoke.client]
        events.append((send.invoke.t, 1, ""))
        if send.settled is None:
            continue
        acked = min((told.t for _, told in send.acks), default=math.inf)
        events.append((send.settled, -1, "acked" if acked <= send.settled else "settled"))
        if send.settled < acked < math.inf:  # an unknown that came good after all
            events.append((acked, 0, "acked"))
    for _, gone in index.gone:
        by_client[gone.client].append((gone.t, 0, "gone"))
    end = index.end_of_load()
    longest = (_longest(sorted(events, key=lambda e: e[0]), after, end) for events in by_client.values())
    return percentiles(1000 * one for one in longest if one is not None)


def _longest(events: list[tuple[float, int, str]], after: float, end: float) -> float | None:
    """Longest stretch in seconds of one client's (time, change of outstanding, what)."""
    longest: float | None = None
    outstanding = 0
    began: float | None = None
    for t, change, what in [*events, (end, 0, "gone")]:
        outstanding = 0 if what == "gone" else max(0, outstanding + change)
        if began is not None and (what in ("acked", "gone") or not outstanding):
            if t >= after:
                longest = max(longest or 0.0, t - began)
            began = None
        if began is None and outstanding:
            began = t
    return longest


def delivery_ms(index: Index) -> dict[str, float | None]:
    """From a message's invocation to each session's reception of it."""
    sends = index.sends
    return percentiles(
        1000 * (r.t - sends[r.id].invoke.t) for _, r in index.received if r.kind == "message" and r.id in sends
    )


def replication_ms(index: Index) -> dict[str, float | None]:
    """From a send's first acknowledgement to being told REPLICATED."""
    return percentiles(
        1000 * (s.replicated[1].t - min(told.t for _, told in s.accepted))
        for s in index.sends.values()
        if s.replicated and s.accepted
    )


def rpo(index: Index, lost_ids: set[str]) -> dict[str, float]:
    """What hung on a region when it went.

    accepted_messages: messages ACCEPTED by a region that a fault took away, by then neither told REPLICATED nor
        below another region's watermark nor accepted elsewhere; whether they came back is another matter.
    accepted_seconds: the longest span, for one such fault, from the first to the last of their acknowledgements.
    replicated_messages: messages told REPLICATED that are missing at the end.
    """
    exposed: set[str] = set()
    seconds = 0.0
    messages = [s for s in index.sends.values() if s.accepted and s.invoke.op == "message"]
    for outage in index.outages:
        held = _watermarks(index, outage)
        times: list[float] = []
        for send in messages:
            at = _exposed_at(send, outage, held)
            if at is not None:
                exposed.add(send.invoke.id)
                times.append(at)
        seconds = max(seconds, max(times, default=0.0) - min(times, default=0.0))
    return {
        "accepted_messages": len(exposed),
        "accepted_seconds": round(seconds, 3),
        "replicated_messages": sum(1 for id_ in lost_ids if index.sends[id_].replicated),
    }


def _watermarks(index: Index, outage: Outage) -> dict[tuple[str, int], int]:
    held: dict[tuple[str, int], int] = {}
    for mark in index.marks:
        if mark.t <= outage.start and mark.holder != outage.region:
            key = (mark.origin, mark.shard)
            held[key] = max(held.get(key, 0), mark.position)
    return held


def _exposed_at(send: Send, outage: Outage, held: dict[tuple[str, int], int]) -> float | None:
    """When the region acknowledged it, if nobody else had it when the region went; else None."""
    if send.replicated and send.replicated[1].t <= outage.start:
        return None
    own = [told for _, told in send.accepted if region_of_told(told) == outage.region and told.t < outage.end]
    elsewhere = any(region_of_told(told) != outage.region and told.t <= outage.start for _, told in send.accepted)
    covered = any(told.position <= held.get((told.origin, told.shard), 0) for told in own)
    if not own or elsewhere or covered:
        return None
    return min(told.t for told in own)


def unread(index: Index) -> list[str]:
    """Nodes that should have been read at the end and were not: those not gone with a fault that never ended."""
    cluster = index.history.header.cluster
    away = {fault.target for _, fault in index.faults if fault.effect and back_at(index, fault) == math.inf}
    read = {final.node for _, final in index.finals}
    return sorted(node for node, region in cluster.nodes.items() if node not in read and not {node, region} & away)


def converged_s(index: Index) -> float | None:
    """Seconds to equal digests; None if never, or if a live replica was not read at the end.

    Counted from the last return of a region or node or the last end of a fault; without any, from the last
    invocation.
    """
    converged = index.converged
    if converged is None or converged.timed_out or not index.finals or unread(index):
        return None
    returned = [r.t for _, r in index.returns]
    ended = [fault.until for _, fault in index.faults if fault.until is not None]
    invoked = [send.invoke.t for send in index.sends.values()]
    start = max([*returned, *ended] or invoked or [converged.t])
    return round(max(0.0, converged.t - start), 3)


def limits(index: Index, gap_p99: float | None, converged: float | None) -> list[Limit]:
    """P6 and P7 against the header's limits, or the promise's own: after a silent hang P6 allows twice as much."""
    own = index.history.header.limits
    hung = any(fault.effect == "hang" for _, fault in index.faults)
    measured = {
        "gap_p99_ms": (gap_p99, own.get("gap_p99_ms", GAP_HANG_MS if hung else GAP_CRASH_MS)),
        "converged_s": (converged, own.get("converged_s", CONVERGED_S)),
    }
    return [Limit(name, value, limit, value is not None and value < limit) for name, (value, limit) in measured.items()]
