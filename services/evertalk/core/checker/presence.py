"""Is what should be there there, once, as it was said, and the same everywhere? lost … resurrected."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from evertalk.core.checker.index import SENT, Index, Send
from evertalk.core.checker.report import Violation
from evertalk.core.history import Final, Invoke, Received, Shown


def lost(index: Index) -> Iterator[Violation]:
    """Acknowledged messages that a final replica does not show though nobody asked for their deletion."""
    holding = _holding(index)
    for send in index.sends.values():
        invoke = send.invoke
        if invoke.op != "message" or send.may_be_deleted() or not index.must_be_held(send):
            continue
        missing = [node for node, held in holding.items() if invoke.id not in held.get(invoke.conversation, ())]
        if missing:
            kind = "REPLICATED" if send.replicated else "ACCEPTED"
            yield Violation(
                "lost",
                (invoke.id,),
                (send.line, *send.ack_lines),
                f"message {invoke.id} was acknowledged {kind} and is missing in {', '.join(missing)}",
            )


def _holding(index: Index) -> dict[str, dict[str, set[str]]]:
    """node -> conversation -> ids in every final read of it."""
    holding: dict[str, dict[str, set[str]]] = defaultdict(dict)
    for _, final in index.finals:
        ids = {m.id for m in final.messages}
        held = holding[final.node]
        held[final.conversation] = held.get(final.conversation, ids) & ids
    return holding


def duplicated(index: Index) -> Iterator[Violation]:
    """Invoked, finally read, or shown to one running session, twice."""
    for line, invoke in index.invoked_again:
        first = index.sends[invoke.id].line
        yield Violation("duplicated", (invoke.id,), (first, line), f"event {invoke.id} was invoked twice")
    where: dict[tuple[str, str], tuple[str, int]] = {}
    for line, final in index.finals:
        for id_, times in Counter(m.id for m in final.messages).items():
            before, before_line = where.setdefault((final.node, id_), (final.conversation, line))
            if times > 1 or before != final.conversation:
                yield Violation(
                    "duplicated", (id_,), (before_line, line), f"message {id_} is twice in the history of {final.node}"
                )
    yield from _shown_twice(index)


def _shown_twice(index: Index) -> Iterator[Violation]:
    gone = iter([*index.gone, None])
    next_gone = next(gone)
    shown: dict[str, dict[str, int]] = defaultdict(dict)
    for line, r in index.received:
        while next_gone is not None and next_gone[0] < line:
            shown.pop(next_gone[1].session, None)  # another run of the same session
            next_gone = next(gone)
        first = shown[r.session].setdefault(r.id, line)
        if first != line:
            yield Violation("duplicated", (r.id,), (first, line), f"event {r.id} was shown twice to {r.client}")


def phantom(index: Index) -> Iterator[Violation]:
    """Seen but never said, not like that, or said to have failed."""
    for line, told in index.told_strays:
        yield Violation("phantom", (told.id,), (line,), f"event {told.id} was answered but never invoked")
    seen: dict[tuple[str, str], list[int]] = defaultdict(list)
    for line, final in index.finals:
        for m in final.messages:
            wrong = _wrong(index.sends.get(m.id), final.conversation, m)
            if wrong:
                seen[m.id, f"a final read shows message {m.id}, {wrong}"].append(line)
    for line, r in index.received:
        if r.kind in SENT or r.id in index.sends:
            wrong = _wrong(index.sends.get(r.id), r.conversation, r)
            if wrong:
                seen[r.id, f"{r.client} received event {r.id}, {wrong}"].append(line)
    for line, read in index.reads:
        for id_ in read.ids:
            send = index.sends.get(id_)
            if send is None or send.failed_definitely or send.invoke.conversation != read.conversation:
                seen[id_, f"{read.client} read message {id_}, {_wrong(send, read.conversation, None)}"].append(line)
    for (id_, sentence), lines in seen.items():
        yield Violation("phantom", (id_,), tuple(lines), sentence)


def _wrong(send: Send | None, conversation: str, shown: Shown | Received | None) -> str:
    if send is None:
        return "which was never invoked"
    if send.failed_definitely:
        return f"whose send had failed definitely (line {send.failed[0] if send.failed else send.line})"
    said: Invoke = send.invoke
    if shown is None:
        return "which was said elsewhere" if conversation != said.conversation else ""
    if (conversation, shown.sender, shown.hlc, shown.kind, shown.body) == (
        said.conversation,
        said.sender,
        said.hlc,
        said.op,
        said.body,
    ):
        return ""
    pairs = (
        ("conversation", conversation, said.conversation),
        ("sender", shown.sender, said.sender),
        ("stamp", shown.hlc, said.hlc),
        ("kind", shown.kind, said.op),
        ("body", shown.body, said.body),
    )
    other = [name for name, is_, was in pairs if is_ != was]
    return f"invoked in line {send.line} with another {' and '.join(other)}"


def diverged(index: Index) -> Iterator[Violation]:
    """Replicas that differ in conversations, messages, order, content, or digest."""
    by_conversation: dict[str, list[tuple[int, Final]]] = defaultdict(list)
    for line, final in index.finals:
        by_conversation[final.conversation].append((line, final))
    nodes = {final.node for _, final in index.finals}
    for conversation, finals in by_conversation.items():
        without = nodes - {final.node for _, final in finals}
        if without:
            yield Violation(
                "diverged",
                (),
                tuple(line for line, _ in finals),
                f"conversation {conversation} is not in {', '.join(sorted(without))}",
            )
        first_line, first = finals[0]
        for line, final in finals[1:]:
            if final.messages != first.messages:
                yield Violation("diverged", _differ(first, final), (first_line, line), _how(first, final))
            elif final.digest != first.digest:
                yield Violation(
                    "diverged",
                    (),
                    (first_line, line),
                    f"{first.node} and {final.node} have unequal digests of conversation {conversation}",
                )


def _differ(one: Final, other: Final) -> tuple[str, ...]:
    """Ids of messages in one only or not alike; of a mere reordering, those at the first difference."""
    odd = tuple(sorted({m.id for m in set(one.messages) ^ set(other.messages)}))
    return odd or next(
        ((a.id, b.id) for a, b in zip(one.messages, other.messages, strict=False) if a != b),
        (),
    )


def _how(one: Final, other: Final) -> str:
    same = Counter(one.messages) == Counter(other.messages)
    what = "order" if same else "messages"
    return f"{one.node} and {other.node} differ in the {what} of conversation {one.conversation}"


def resurrected(index: Index) -> Iterator[Violation]:
    """Messages whose acknowledged deletion does not show in a final read."""
    for line, final in index.finals:
        for m in final.messages:
            send = index.sends.get(m.id)
            held = (d for d in (send.deletions if send else ()) if index.must_be_held(d))
            deletion = next(held, None)
            if deletion is not None:
                yield Violation(
                    "resurrected",
                    (m.id, deletion.invoke.id),
                    (deletion.line, *deletion.ack_lines, line),
                    f"message {m.id} was deleted, that was acknowledged, and {final.node} shows it",
                )
