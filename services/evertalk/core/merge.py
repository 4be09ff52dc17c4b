"""Merging (R12): every event has a slot, and one rule says which event a slot keeps, in any order of arrival."""

from __future__ import annotations

import hashlib

from evertalk.core.model import (
    Conversation,
    ConversationKind,
    Edit,
    Event,
    Kind,
    Membership,
    Reaction,
    Receipt,
    Role,
    Target,
)

#: Highest (version, id) wins.
REGISTERS = frozenset({Kind.EDIT, Kind.REACTION, Kind.MEMBERSHIP, Kind.TITLE, Kind.RECEIPT})
#: Delivered to the members of a conversation.
CONVERSATIONAL = frozenset(
    {
        Kind.MESSAGE,
        Kind.EDIT,
        Kind.DELETION,
        Kind.REACTION,
        Kind.CONVERSATION,
        Kind.MEMBERSHIP,
        Kind.TITLE,
        Kind.RECEIPT,
    }
)
#: Hang on a message and go with it when it is deleted.
DEPENDENT = frozenset({Kind.EDIT, Kind.REACTION})
#: Change who is in a conversation.
JOINING = frozenset({Kind.CONVERSATION, Kind.MEMBERSHIP})
#: Answered only when replicated, while a peer is live (R14).
CREATIONS = frozenset({Kind.CONVERSATION, Kind.MEMBERSHIP, Kind.ACCOUNT, Kind.HANDLE_CLAIM})


def target_slot(target: Target) -> bytes:
    """Slot of the message a target names; prefix of the slots of what hangs on it."""
    return target.id + target.sender


def target_of(event: Event) -> Target | None:
    """The message that an edit, deletion or reaction is about."""
    body = event.body
    return getattr(body, "target", None)


def slot_of(event: Event) -> bytes:
    """Where an event belongs within (scope, kind): events of one slot compete, others live side by side."""
    body = event.body
    match event.kind:
        case Kind.MESSAGE:  # most are, and every member of an enum takes its time to look up
            return event.id + event.sender
        case Kind.EDIT | Kind.DELETION:
            target = target_of(event)
            assert target is not None
            return target_slot(target)
        case Kind.REACTION:
            assert isinstance(body, Reaction)
            return target_slot(body.target) + event.sender + body.emoji.encode()
        case Kind.MEMBERSHIP:
            assert isinstance(body, Membership)
            return body.account
        case Kind.RECEIPT:
            assert isinstance(body, Receipt)
            return event.sender + bytes([body.level]) + body.origin.encode()
        case Kind.HANDLE_CLAIM:
            return event.sender
        case Kind.CONVERSATION | Kind.TITLE | Kind.ACCOUNT:
            return b""
        case _:  # kinds that this version does not know
            return event.id + event.sender


def lawful(event: Event) -> bool:
    """What apply checks, from the event alone: an edit's author is its message's sender, a reaction is one's own."""
    if event.kind == Kind.EDIT:
        assert isinstance(event.body, Edit)
        return event.body.target.sender == event.sender
    return True


def beats(new: Event, new_rank: tuple[int, str], old: Event, old_rank: tuple[int, str]) -> bool:
    """True if `new` takes the slot from `old`; a total order, so that every replica chooses the same.

    Args:
        new_rank, old_rank: (accepted_at, origin) of each copy; decides between two copies under one id, where
            the smaller wins whole (equivocation).
    """
    if new.kind in REGISTERS:
        one, other = (new.version, new.id, new.sender), (old.version, old.id, old.sender)
        if one != other:
            return one > other
    elif new.kind not in (Kind.MESSAGE, Kind.UNKNOWN):
        first, second = (new.hlc, new.id, new.sender), (old.hlc, old.id, old.sender)
        if first != second:
            return first < second
    return (new_rank, new.raw) < (old_rank, old.raw)


def initial_role(conversation: Conversation, creator: bytes, account: bytes) -> int:
    """Role of an account by the conversation's creation alone, before any Membership."""
    if account not in conversation.members:
        return Role.NONE
    if conversation.kind == ConversationKind.GROUP and account == creator:
        return Role.ADMIN
    return Role.MEMBER


def is_late(accepted_ms: int, now_ms: int, hlc: int, highest_shown: int, late_ms: int) -> bool:
    """The local mark `late`: applied long after it was accepted, below a key already shown."""
    return now_ms - accepted_ms > late_ms and hlc < highest_shown


class Digest:
    """SHA-256 over the visible rows of a conversation in order, then its winning registers; nothing else."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self.messages = 0

    def _add(self, *parts: bytes) -> None:
        for part in parts:
            self._sha.update(len(part).to_bytes(4, "big"))
            self._sha.update(part)

    def message(self, event: Event) -> None:
        """The next visible message, in sort-key order. The raw bytes hold sort key, sender and body."""
        self.messages += 1
        self._add(b"m", event.hlc.to_bytes(8, "big"), event.id, event.sender, event.raw)

    def register(self, event: Event) -> None:
        """The next winning register, in (kind, slot) order."""
        self._add(b"r", bytes([event.kind]), slot_of(event), event.raw)

    def hexdigest(self) -> str:
        """The digest of all that was added."""
        return self._sha.hexdigest()
