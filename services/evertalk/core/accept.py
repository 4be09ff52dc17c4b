"""What a node checks before it appends an event: form, stamp, and who may (R1, R12)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evertalk.core import limits
from evertalk.core.clock import ms_of
from evertalk.core.errors import Code, Refused
from evertalk.core.ids import direct_scope, group_scope
from evertalk.core.merge import REGISTERS, target_of
from evertalk.core.model import (
    Conversation,
    ConversationKind,
    Deletion,
    Edit,
    Event,
    Kind,
    Membership,
    Message,
    Reaction,
    Receipt,
    Role,
    Target,
    Title,
)

#: A version that ran away could never be followed; one bounded by time can, a millisecond later.
VERSIONS_AHEAD = 1 << 20
_FROM_SESSIONS = frozenset(
    {
        Kind.MESSAGE, Kind.EDIT, Kind.DELETION, Kind.REACTION, Kind.CONVERSATION, Kind.MEMBERSHIP, Kind.TITLE,
        Kind.RECEIPT, Kind.UNKNOWN,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rights:
    """What accept needs to know of a conversation. members: account -> role."""

    kind: int
    creator: bytes
    members: Mapping[bytes, int]


def check_form(event: Event) -> None:
    """Refuse what is not well formed or too large: MALFORMED, TOO_LARGE, NOT_ALLOWED."""
    if len(event.raw) > limits.MAX_EVENT_BYTES:
        raise Refused(Code.TOO_LARGE, f"an event has at most {limits.MAX_EVENT_BYTES} bytes, this one {len(event.raw)}")
    for name, value in (("id", event.id), ("scope", event.scope), ("sender", event.sender)):
        if len(value) != limits.ID_BYTES:
            raise Refused(Code.MALFORMED, f"an event's {name} has {limits.ID_BYTES} bytes, not {len(value)}")
    if len(event.session) != limits.SESSION_BYTES:
        raise Refused(Code.MALFORMED, f"an event's session has {limits.SESSION_BYTES} bytes")
    if not 0 < event.hlc < 1 << 63:
        raise Refused(Code.MALFORMED, "an event's hlc is a positive 63-bit number")
    if len(event.need) > limits.MAX_NEEDS:
        raise Refused(Code.MALFORMED, f"an event names at most {limits.MAX_NEEDS} needs")
    if event.kind not in _FROM_SESSIONS:
        raise Refused(Code.NOT_ALLOWED, "accounts and handles are made by AccountService.Register")
    if event.kind in REGISTERS and event.kind != Kind.RECEIPT and event.version > ms_of(event.hlc) + VERSIONS_AHEAD:
        raise Refused(Code.MALFORMED, "a version is the highest seen + 1, or the time in milliseconds where none was")
    _check_body(event)


def _check_text(text: str, what: str, limit: int) -> None:
    size = len(text.encode())
    if size > limit:
        raise Refused(Code.TOO_LARGE, f"a {what} has at most {limit} bytes, this one {size}")


def _check_target(target: Target) -> None:
    if len(target.id) != limits.ID_BYTES or len(target.sender) != limits.ID_BYTES:
        raise Refused(Code.MALFORMED, f"a target names its message by an id and a sender of {limits.ID_BYTES} bytes")


def _check_body(event: Event) -> None:
    match event.body:
        case Message(text=text, encrypted=encrypted, attachments=files):
            _check_text(text, "message", limits.MAX_TEXT_BYTES)
            if len(encrypted) > limits.MAX_TEXT_BYTES:
                raise Refused(Code.TOO_LARGE, f"a message has at most {limits.MAX_TEXT_BYTES} bytes")
            if not text and not encrypted and not files:
                raise Refused(Code.MALFORMED, "a message needs a text, an encrypted body or an attachment")
        case Edit(target=target, text=text):
            _check_target(target)
            _check_text(text, "message", limits.MAX_TEXT_BYTES)
            if target.sender != event.sender:
                raise Refused(Code.NOT_ALLOWED, "only its sender edits a message")
        case Reaction(target=target, emoji=emoji):
            _check_target(target)
            _check_text(emoji, "reaction", limits.MAX_EMOJI_BYTES)
            if not emoji:
                raise Refused(Code.MALFORMED, "a reaction needs an emoji")
        case Title(title=title):
            _check_text(title, "title", limits.MAX_TITLE_BYTES)
        case Membership(account=account, role=role):
            if len(account) != limits.ID_BYTES or role not in tuple(Role):
                raise Refused(Code.MALFORMED, "a membership names an account and a role")
        case Receipt(level=level, position=position):
            if level not in (1, 2) or not 0 < position < 1 << 63:
                raise Refused(Code.MALFORMED, "a receipt has a level and a position above 0")
            if event.version != position:
                raise Refused(Code.MALFORMED, "a receipt's version is its position")
        case Conversation():
            _check_creation(event, event.body)
        case _:
            found = target_of(event)
            if found is not None:
                _check_target(found)


def _check_creation(event: Event, body: Conversation) -> None:
    _check_text(body.title, "title", limits.MAX_TITLE_BYTES)
    members = set(body.members)
    if any(len(m) != limits.ID_BYTES for m in members) or len(members) != len(body.members):
        raise Refused(Code.MALFORMED, "a conversation's members are different account ids")
    if event.sender not in members:
        raise Refused(Code.MALFORMED, "who makes a conversation is one of its members")
    if len(members) > limits.MAX_MEMBERS:
        raise Refused(Code.TOO_LARGE, f"a conversation has at most {limits.MAX_MEMBERS} members")
    if body.kind == ConversationKind.DIRECT:
        if len(members) != 2 or event.scope != direct_scope(*members):
            raise Refused(Code.MALFORMED, "a direct conversation has two members, and its id is the hash of both")
    elif body.kind != ConversationKind.GROUP:
        raise Refused(Code.MALFORMED, "a conversation is direct or a group")
    elif event.scope != group_scope(event.sender, event.id):
        raise Refused(Code.MALFORMED, "a group's id is the hash of who made it and the event that did")


def check_stamp(event: Event, wall_ms: int, highest_accepted: int) -> None:
    """Refuse a stamp too far ahead of what this region knows of time, or older than tombstones live (R1, R12).

    Args:
        wall_ms: this node's wall clock.
        highest_accepted: highest accepted_at (HLC) seen from anyone.
    """
    stamp_ms = ms_of(event.hlc)
    now_ms = max(wall_ms, ms_of(highest_accepted))
    if stamp_ms > now_ms + limits.BOUND_MS:
        ahead = (stamp_ms - now_ms) / 1000
        raise Refused(Code.STAMP_AHEAD, f"the stamp is {ahead:.0f} s ahead of region time: reconnect to set the clock")
    if stamp_ms < now_ms - limits.MAX_AGE_MS:
        raise Refused(Code.STAMP_TOO_OLD, "the stamp is older than 30 days: send it as a new message")


def check_right(event: Event, account: bytes, rights: Rights | None) -> None:
    """Refuse what this account may not do in this conversation.

    Args:
        rights: of the conversation, or None if this node does not know it.
    """
    if event.sender != account:
        raise Refused(Code.NOT_ALLOWED, "an event's sender is the account that is signed in")
    if event.kind == Kind.CONVERSATION:
        if rights is None:
            return
        body = event.body
        member = rights.members.get(account, Role.NONE) != Role.NONE
        if not isinstance(body, Conversation) or body.kind != rights.kind or not member:
            raise Refused(Code.NOT_ALLOWED, "there is another conversation under this id")
        if rights.kind == ConversationKind.GROUP and rights.creator != account:
            raise Refused(Code.NOT_ALLOWED, "this conversation was made by somebody else")
        return
    if rights is None:
        raise Refused(Code.UNKNOWN_CONVERSATION, f"there is no conversation {event.scope.hex()}")
    role = rights.members.get(account, Role.NONE)
    if role == Role.NONE:
        raise Refused(Code.NOT_A_MEMBER, f"you are not a member of conversation {event.scope.hex()}")
    admin = role == Role.ADMIN
    match event.body:
        case Membership(account=who, role=new):
            if rights.kind == ConversationKind.DIRECT:
                raise Refused(Code.NOT_ALLOWED, "the members of a direct conversation do not change")
            if not admin and not (who == account and new == Role.NONE):
                raise Refused(Code.NOT_ALLOWED, "only an admin changes members")
            here = sum(1 for r in rights.members.values() if r != Role.NONE)
            if new != Role.NONE and here >= limits.MAX_MEMBERS and rights.members.get(who, Role.NONE) == Role.NONE:
                raise Refused(Code.TOO_LARGE, f"a conversation has at most {limits.MAX_MEMBERS} members")
        case Title():
            if rights.kind == ConversationKind.DIRECT:
                raise Refused(Code.NOT_ALLOWED, "a direct conversation has no title")
        case Deletion(target=target):
            if not admin and target.sender != account:
                raise Refused(Code.NOT_ALLOWED, "a message is deleted by its sender or by an admin")
        case _:
            pass
