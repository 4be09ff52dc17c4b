"""What must hold beyond what the checker judges: sessions were shown everything, nobody waited long, and what was
deleted is on no disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from evertalk.core import limits
from evertalk.core.ids import direct_scope
from evertalk.core.model import Applied, Durability, Kind
from evertalk.sim.allowance import Troubles
from evertalk.sim.people import Person, Wait
from evertalk.sim.world import NodeHost

DENIED_S = 6.0  # whose share of hedges is spent, by faults one after the other, is with a silent node for two seconds
WAIT_S = 3.0  # P6: two seconds; and some, for delays on simulated ways that come one on top of the other


def unshown(
    people: Sequence[Person], finals: Mapping[bytes, Sequence[Applied]], members: Mapping[bytes, set[bytes]],
    said_at: Mapping[bytes, float], moved: Mapping[bytes, set[bytes]],
    founders: Mapping[bytes, set[bytes]],
) -> Iterator[str]:  # fmt: skip
    """Messages that a session which runs to the end should have been shown and was not (R7, R13).

    Args:
        finals: conversation -> visible messages of a replica.
        members: conversation -> accounts that are in it at the end.
        said_at: message -> when it was invoked; from when on a session stood is in `Run.since`.
        founders: conversation -> accounts that were in it from the start; others got a page of it.
        moved: conversation -> accounts that have come or gone during the run, who are not judged.
    """
    for person in people:
        if not person.runs or person.runs[-1].over:
            continue
        run = person.runs[-1]
        for scope, messages in finals.items():
            if person.account not in members[scope] or person.account in moved[scope]:
                continue
            joined = person.account not in founders[scope]
            for one in messages[-limits.JOIN_PAGE :] if joined else messages:
                event = one.event
                own = event.session == run.session
                if own or event.kind != Kind.MESSAGE or event.id in run.shown:
                    continue
                if said_at.get(event.id, -1.0) > run.since:
                    yield f"unshown: {person.name} was never shown message {event.id.hex()} of {event.sender.hex()[:6]}"


def unkept(people: Sequence[Person], hosts: Sequence[NodeHost]) -> Iterator[str]:
    """Accounts and conversations that were answered as replicated and are not everywhere, or not what they should be
    (R14)."""
    for person in people:
        for account, durability in person.brought.items():
            without = [host.name for host in hosts if not host.knows(account)]
            if durability is Durability.REPLICATED and without:
                yield f"unkept: account {account.hex()} was answered as REPLICATED and is not in {', '.join(without)}"
        for other, created in person.met.items():
            if created.id != direct_scope(person.account, other):
                yield f"unkept: {person.name} has a direct conversation that the other side does not share"
            without = [host.name for host in hosts if not host.members(created.id)]
            if created.durability is Durability.REPLICATED and without:
                yield f"unkept: conversation {created.id.hex()} was REPLICATED and is not in {', '.join(without)}"


def residue(people: Sequence[Person], hosts: Sequence[NodeHost]) -> Iterator[str]:
    """Texts of deleted or disappeared messages that are still on a disk, anywhere in the file (P9)."""
    texts: dict[bytes, set[str]] = {}
    for person in people:
        for id_, said in person.said.items():
            texts.setdefault(id_, set()).update(said)
    gone: set[bytes] = set().union(*(host.deleted() | host.expired() for host in hosts))
    for person in people:
        gone |= person.whispers & person.accepted  # one that never came to be cannot go; an edit of it may stay
    kept: set[str] = set().union(*(said for id_, said in texts.items() if id_ not in gone))
    for host in hosts:
        image = host.disk.db.serialize()
        for id_ in sorted(gone & texts.keys()):
            for text in sorted(texts[id_] - kept):
                if text[: text.index(".") + 1].encode() in image:
                    yield f"residue: {host.name} has {text[:40]!r} of message {id_.hex()} on its disk, which is gone"


def waits(
    people: Sequence[Person], troubles: Troubles, now: float, moved: Mapping[bytes, set[bytes]]
) -> list[tuple[str, Wait]]:
    """Who went without an acknowledgement from when to when, although some region had no trouble all the time (P6).

    Args:
        moved: conversation -> accounts that may not be in it any more; of their messages nothing is promised.
    """
    found = []
    for person in people:
        own = list(person.waits)
        still = [at for at, scope in person.unanswered.values() if person.account not in moved.get(scope, ())]
        if still and person.up is not None and person.process is not None and not person.process.frozen:
            own.append(person.wait(max(person.acked_at, min(still)), now))
        found += [(person.name, one) for one in own if troubles.well(one.since, one.until)]
    return found


def waited(found: Sequence[tuple[str, Wait]]) -> Iterator[str]:
    """Of `waits`, those that no client should have to bear."""
    for name, (since, until, denied) in found:
        if until - since > (DENIED_S if denied else WAIT_S):
            yield f"waited: {name} had no acknowledgement from {since:.1f} s to {until:.1f} s"
