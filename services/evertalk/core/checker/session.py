"""The four session guarantees (Terry et al., "Session Guarantees for Weakly Consistent Replicated Data", 1994).

Judged on what clients read of a conversation's history:

- read your writes: a read shows what its session had acknowledged before it asked, and not what it had deleted;
- monotonic reads: a read shows what its session had received or read before it asked, in the same order;
- monotonic writes: a read that shows a message shows those that the author's session had sent before it;
- writes follow reads: a read that shows a reply shows the parent (what authors had seen is judged in `order`).

A read that says `gap` itself is no violation; nor is what a `gap` told to its session names, nor what is missing before
a message that the read itself shows marked `parent_missing` (R11), until the replicas have converged. A read that was
cut at its old end is judged from its oldest message on.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from evertalk.core.checker.index import Index, Send
from evertalk.core.checker.order import parent_of
from evertalk.core.checker.report import Violation
from evertalk.core.history import Gap, Read

Key = tuple[float, str]


class Need(NamedTuple):
    """From `t` on the session's reads must show (or, of a deleted one, not show) message `id`."""

    t: float
    id: str
    why: str
    line: int
    shown: bool = True
    copies: tuple[tuple[str, int, int | None], ...] = ()  # (origin, position, shard if known)


@dataclass(slots=True)
class _Author:
    """What one session sent in one conversation, in order, and how many of the first n must be there."""

    sends: list[Send] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    owed: list[int] = field(default_factory=lambda: [0])
    place: dict[str, int] = field(default_factory=dict)


def broken_sessions(index: Index) -> Iterator[Violation]:
    """Every violation of a session guarantee by a read of history."""
    needs = _needs(index)
    reads: dict[tuple[str, str], list[tuple[int, Read]]] = defaultdict(list)
    for line, read in index.reads:
        reads[read.session, read.conversation].append((line, read))
    gaps: dict[str, list[Gap]] = defaultdict(list)
    for _, gap in index.gaps:
        gaps[gap.session].append(gap)
    for key, own in reads.items():
        yield from _own(index, own, needs.get(key, []), gaps.get(key[0], []))
    named: set[tuple[str, str]] = set()
    for reader, violation in _others(index, gaps):
        if (reader, violation.ids[0]) not in named:
            named.add((reader, violation.ids[0]))
            yield violation


def _needs(index: Index) -> dict[tuple[str, str], list[Need]]:
    out: dict[tuple[str, str], list[Need]] = defaultdict(list)
    for send in index.sends.values():
        if not send.acked:
            continue
        invoke = send.invoke
        line, told = min(send.acks, key=lambda ack: ack[1].t)
        copies = tuple((a.origin, a.position, a.shard) for _, a in send.accepted)
        where = out[invoke.session, invoke.conversation]
        if invoke.op == "message":
            where.append(Need(told.t, invoke.id, "read your writes", line, True, copies))
        elif invoke.op == "delete" and invoke.target:
            where.append(Need(told.t, invoke.target[1], "read your writes", line, False, copies))
    for line, r in index.received:
        where = out[r.session, r.conversation]
        deletion = index.sends.get(r.id) if r.kind == "delete" else None
        copy = ((r.origin, r.position, None),)
        if r.kind == "message":
            where.append(Need(r.t, r.id, "monotonic reads", line, True, copy))
        elif deletion is not None and deletion.invoke.target:
            where.append(Need(r.t, deletion.invoke.target[1], "monotonic reads", line, False, copy))
    for line, read in index.reads:
        out[read.session, read.conversation] += [Need(read.t, id_, "monotonic reads", line) for id_ in read.ids]
    return out


def _own(index: Index, reads: list[tuple[int, Read]], needs: list[Need], gaps: list[Gap]) -> Iterator[Violation]:
    """Read your writes, monotonic reads: one session's reads of one conversation, as asked."""
    needs = sorted(needs, key=lambda need: need.t)
    owed: dict[str, Need] = {}
    keys: list[Key] = []
    gone: dict[str, Need] = {}
    named: set[str] = set()  # each message once, or one bug fills the report
    done = 0
    for line, read in sorted(reads, key=lambda r: r[1].asked):
        while done < len(needs) and needs[done].t < read.asked:
            need = needs[done]
            done += 1
            send = index.sends.get(need.id)
            if send is None or need.id in (owed if need.shown else gone):
                continue
            if need.shown:
                owed[need.id] = need
                insort(keys, send.key)
            else:
                gone[need.id] = need
        yield from _unordered(index, line, read)
        if read.gap:
            continue
        present = set(read.ids)
        late = [owed[id_] for _, id_ in keys[bisect_left(keys, _floor(index, read)) :] if id_ not in present]
        for need in late + [gone[id_] for id_ in present & gone.keys()]:
            deleted = need.shown and index.sends[need.id].may_be_deleted(read.t)
            if deleted or need.id in named or _excused(index, need, read, gaps):
                continue
            named.add(need.id)
            yield Violation(
                "session",
                (need.id,),
                (need.line, line),
                f"{need.why}: {read.client} read conversation {read.conversation}"
                f" {'without' if need.shown else 'with the deleted'} message {need.id}",
            )


def _floor(index: Index, read: Read) -> Key:
    """The sort key from which on a read is complete."""
    if read.whole:
        return (-math.inf, "")
    send = index.sends.get(read.ids[0]) if read.ids else None
    return send.key if send else (math.inf, "")


def _excused(index: Index, need: Need, read: Read, gaps: list[Gap]) -> bool:
    """True if a gap told to the session before the read returned names every copy it could know of."""
    if _after_convergence(index, read):
        return False
    told = [gap for gap in gaps if gap.t <= read.t]
    missing = [m for gap in told for m in gap.missing]
    if not need.copies:
        return bool(told)
    return all(
        any(origin == m[0] and position <= m[2] and shard in (None, m[1]) for m in missing)
        for origin, position, shard in need.copies
    )


def _unordered(index: Index, line: int, read: Read) -> Iterator[Violation]:
    before: Send | None = None
    for id_ in read.ids:
        send = index.sends.get(id_)
        if send is None:
            continue
        if before is not None and send.key <= before.key:
            yield Violation(
                "session",
                (id_, before.invoke.id),
                (before.line, send.line, line),
                f"monotonic reads: {read.client} read message {id_} behind {before.invoke.id}, against their stamps",
            )
        before = send


def _others(index: Index, gaps: dict[str, list[Gap]]) -> Iterator[tuple[str, Violation]]:
    """Monotonic writes, writes follow reads: what each read shows of each author; with the reader's session."""
    authors = _authors(index)
    delivered = {r.id for _, r in index.received if r.parent_missing}
    for line, read in index.reads:
        if read.gap or _told_gap(index, read, gaps.get(read.session, [])):
            continue
        # A mark outlives the hole: once replicas are equal it excuses no read.
        own = () if _after_convergence(index, read) else read.parent_missing
        marked = delivered.union(own) if own else delivered
        floor = _floor(index, read)
        present = set(read.ids)
        by_session: dict[str, list[Send]] = defaultdict(list)
        for id_ in read.ids:
            send = index.sends.get(id_)
            if send is None:
                continue
            by_session[send.invoke.session].append(send)
            parent = index.sends.get(parent_of(send))
            wanted = parent is not None and _owed(index, parent) and parent.key >= floor
            if parent is not None and wanted and parent.invoke.id not in present and id_ not in marked:
                yield read.session, _without(line, read, "writes follow reads", parent, send)
        for name, shown in by_session.items():
            author = authors.get((name, read.conversation), _Author())
            for violation in _earlier(index, line, read, author, shown, floor, present, marked):
                yield read.session, violation


def _told_gap(index: Index, read: Read, gaps: list[Gap]) -> bool:
    return not _after_convergence(index, read) and any(gap.t <= read.t for gap in gaps)


def _after_convergence(index: Index, read: Read) -> bool:
    converged = index.converged
    return converged is not None and not converged.timed_out and read.asked >= converged.t


def _authors(index: Index) -> dict[tuple[str, str], _Author]:
    authors: dict[tuple[str, str], _Author] = defaultdict(_Author)
    for send in index.sends.values():
        if send.invoke.op == "message":
            author = authors[send.invoke.session, send.invoke.conversation]
            author.place[send.invoke.id] = len(author.sends)
            author.sends.append(send)
            author.keys.append(send.key)
            author.owed.append(author.owed[-1] + _owed(index, send))
    return dict(authors)


def _owed(index: Index, send: Send) -> bool:
    """True if whoever shows a later one must show this one (a released one may lie in a dead region)."""
    return index.must_be_held(send) and not send.released and not send.may_be_deleted()


def _earlier(
    index: Index,
    line: int,
    read: Read,
    author: _Author,
    shown: list[Send],
    floor: Key,
    present: set[str],
    marked: set[str],
) -> Iterator[Violation]:
    places = [author.place[s.invoke.id] for s in shown if s.invoke.id in author.place]
    if not places:
        return
    last = max(places)
    first = bisect_left(author.keys, floor)
    if author.owed[last + 1] - author.owed[first] == sum(_owed(index, s) for s in shown):
        return  # counting is enough for almost every read
    for place in range(first, last):
        send = author.sends[place]
        after = [p for p in places if p > place]
        waited = any(author.sends[p].invoke.id in marked for p in after)
        if send.invoke.id not in present and _owed(index, send) and not waited:
            yield _without(line, read, "monotonic writes", send, author.sends[min(after)])


def _without(line: int, read: Read, why: str, missing: Send, shown: Send) -> Violation:
    return Violation(
        "session",
        (missing.invoke.id, shown.invoke.id),
        (missing.line, shown.line, line),
        f"{why}: {read.client} read message {shown.invoke.id} without {missing.invoke.id},"
        " which its author had said or seen before",
    )
