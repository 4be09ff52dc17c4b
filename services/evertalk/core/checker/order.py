"""Is the order of every final read lawful? Each session's own order, and causality; and live, replies to parents.

Both are one walk over what a session did in a conversation, with a running maximum: the furthest place in the final
order of anything it had sent or seen by then. What it sends next must lie behind that. O(records) for each content
that the final reads show.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from evertalk.core.checker.index import Index, Send
from evertalk.core.checker.report import Violation
from evertalk.core.history import Final, Received


class Step(NamedTuple):
    """A session sent, received, or read the message `id` in some conversation."""

    line: int
    session: str
    id: str
    how: str  # "sent" | "received" | "read"


class Content(NamedTuple):
    """One order of a conversation and the final reads (lines, nodes) that show it."""

    conversation: str
    ids: tuple[str, ...]
    lines: tuple[int, ...]
    nodes: tuple[str, ...]


def contents(index: Index) -> list[Content]:
    """What the final reads show, each different content once."""
    by_ids: dict[tuple[str, tuple[str, ...]], list[tuple[int, Final]]] = defaultdict(list)
    for line, final in index.finals:
        by_ids[final.conversation, tuple(m.id for m in final.messages)].append((line, final))
    return [
        Content(conversation, ids, tuple(line for line, _ in finals), tuple(f.node for _, f in finals))
        for (conversation, ids), finals in by_ids.items()
    ]


def steps(index: Index) -> dict[str, list[Step]]:
    """What sessions sent, received and read in each conversation, in order of lines."""
    out: dict[str, list[Step]] = defaultdict(list)
    for send in index.sends.values():
        invoke = send.invoke
        if invoke.op == "message":
            out[invoke.conversation].append(Step(send.line, invoke.session, invoke.id, "sent"))
    for line, r in index.received:
        if r.kind == "message":
            out[r.conversation].append(Step(line, r.session, r.id, "received"))
    known: dict[tuple[str, str], set[str]] = defaultdict(set)
    for line, read in index.reads:
        before = known[read.session, read.conversation]
        fresh = [id_ for id_ in read.ids if id_ not in before]  # reading it again says nothing new
        before.update(fresh)
        out[read.conversation] += [Step(line, read.session, id_, "read") for id_ in fresh]
    for walk in out.values():
        walk.sort(key=lambda step: step.line)
    return out


def sender_order(content: Content, walk: Iterable[Step]) -> Iterator[Violation]:
    """Messages of one session that a final read shows out of the order of their invocations."""
    yield from _behind(content, (s for s in walk if s.how == "sent"), "sender_order", "sent")


def causal_order(content: Content, walk: Iterable[Step]) -> Iterator[Violation]:
    """Messages that a final read shows before one their author had received or sent before."""
    yield from _behind(content, (s for s in walk if s.how != "read"), "causal_order", "received or sent")


def read_order(content: Content, walk: Iterable[Step]) -> Iterator[Violation]:
    """Writes follow reads, at the end: messages before one that their session had *read* in a history."""
    yield from _behind(content, (s for s in walk if s.how != "received"), "session", "read")


def _behind(content: Content, walk: Iterable[Step], kind: str, how: str) -> Iterator[Violation]:
    place = {id_: i for i, id_ in enumerate(content.ids)}
    furthest: dict[str, tuple[int, Step]] = {}
    for step in walk:
        at = place.get(step.id)
        if at is None:
            continue
        before = furthest.get(step.session)
        if before is None or at > before[0]:
            furthest[step.session] = (at, step)
        elif step.how == "sent" and at < before[0] and not (kind == "session" and before[1].how == "sent"):
            yield Violation(
                kind,
                (step.id, before[1].id),
                (before[1].line, step.line, *content.lines),
                f"message {step.id} stands before {before[1].id} in {', '.join(content.nodes)},"
                f" which its author had {how} before",
            )


def reply_order(index: Index, content: Content) -> Iterator[Violation]:
    """Replies that stand before their parents."""
    place = {id_: i for i, id_ in enumerate(content.ids)}
    for id_, at in place.items():
        send = index.sends.get(id_)
        parent = parent_of(send)
        if send is not None and parent and place.get(parent, -1) > at:
            yield Violation(
                "causal_order",
                (id_, parent),
                (send.line, *content.lines),
                f"reply {id_} stands before its parent {parent} in {', '.join(content.nodes)}",
            )


def parent_of(send: Send | None) -> str:
    """Id of the message that one answers, or ""."""
    return send.invoke.reply_to[1] if send is not None and send.invoke.reply_to else ""


def live_causal(index: Index) -> list[tuple[int, Received, int, str]]:
    """Replies shown to a session before their parents were: (line, reply, line of parent, id of parent)."""
    waiting: dict[tuple[str, str], list[tuple[int, Received]]] = defaultdict(list)
    shown: set[tuple[str, str]] = set()
    out: list[tuple[int, Received, int, str]] = []
    reads = iter([*index.reads, None])
    read = next(reads)
    for line, r in index.received:
        while read is not None and read[0] < line:  # what was read in a history has been shown, too
            shown.update((read[1].session, id_) for id_ in read[1].ids)
            read = next(reads)
        if r.kind != "message":
            continue
        key = (r.session, r.id)
        if key not in shown:
            out += [(early, reply, line, r.id) for early, reply in waiting.pop(key, ())]
        shown.add(key)
        parent = parent_of(index.sends.get(r.id))
        if parent and (r.session, parent) not in shown:
            waiting[r.session, parent].append((line, r))
    return out


def live_order(inverted: list[tuple[int, Received, int, str]]) -> Iterator[Violation]:
    """Of what `live_causal` found, the replies that were not marked parent_missing."""
    for line, reply, parent_line, parent in inverted:
        if not reply.parent_missing:
            yield Violation(
                "causal_order",
                (reply.id, parent),
                (line, parent_line),
                f"{reply.client} was shown reply {reply.id} before its parent {parent}, unmarked",
            )


def misordered(index: Index) -> Iterator[Violation]:
    """Every violation of order in final reads."""
    walks = steps(index)
    for content in contents(index):
        walk = walks.get(content.conversation, [])
        yield from sender_order(content, walk)
        yield from once(causal_order(content, walk), reply_order(index, content))
        yield from read_order(content, walk)


def once(*sources: Iterable[Violation]) -> Iterator[Violation]:
    """Violations of several sources, at most one for each pair of ids."""
    seen: set[tuple[str, ...]] = set()
    for source in sources:
        for violation in source:
            if violation.ids not in seen:
                seen.add(violation.ids)
                yield violation
