"""What a node takes and what it refuses, by name: form, stamp, and who may."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertalk.adapters.wire import encode_event
from evertalk.core import limits
from evertalk.core.accept import Rights, check_form, check_right, check_stamp
from evertalk.core.clock import pack
from evertalk.core.errors import Code, Refused
from evertalk.core.ids import direct_scope, group_scope
from evertalk.core.model import (
    Account,
    Attachment,
    Body,
    Conversation,
    ConversationKind,
    Deletion,
    Edit,
    Event,
    HandleClaim,
    Kind,
    Level,
    Membership,
    Message,
    Reaction,
    Receipt,
    Role,
    Target,
    Title,
)
from tests.adapters.store_helpers import ANNA, BORIS, CHLOE, NOW_MS, ROOM, Pen, account

MALLORY = account("mallory")
FILE = Attachment(b"\x01" * 32, 1, "text/plain", "a.txt")
DIRECT = direct_scope(ANNA, BORIS)
KINDS = {
    Message: Kind.MESSAGE, Edit: Kind.EDIT, Deletion: Kind.DELETION, Reaction: Kind.REACTION, Title: Kind.TITLE,
    Conversation: Kind.CONVERSATION, Membership: Kind.MEMBERSHIP, Receipt: Kind.RECEIPT, Account: Kind.ACCOUNT,
    HandleClaim: Kind.HANDLE_CLAIM,
}  # fmt: skip


def saying(body: Body, sender: bytes = ANNA, *, scope: bytes = ROOM, version: int = 0) -> Event:
    """An event by anna, or whoever is named, with this body."""
    return Pen().write(KINDS[type(body)], sender, body, scope=scope, version=version)


def of_anna(id: bytes = b"m" * 16) -> Target:
    return Target(ANNA, id)


def refused(check: Callable[..., None], *args: object) -> Refused:
    """How a check refuses."""
    with pytest.raises(Refused) as caught:
        check(*args)
    assert caught.value.definite
    assert caught.value.sentence
    return caught.value


# ---------------------------------------------------------------- form

FINE = {
    "a message as long as may be": saying(Message("x" * limits.MAX_TEXT_BYTES)),
    "an encrypted message": saying(Message(encrypted=b"\x00\xff")),
    "a message that is only a file": saying(Message(attachments=(FILE,))),
    "an edit of one's own message": saying(Edit(of_anna(), "better"), version=1),
    "a deletion": saying(Deletion(of_anna())),
    "a reaction": saying(Reaction(of_anna(), "🎉"), BORIS, version=1),
    "an empty title": saying(Title(""), version=1),
    "a membership": saying(Membership(CHLOE, Role.ADMIN), version=1),
    "a receipt": saying(Receipt(Level.READ, "seoul-01A", 7), version=7),
    "a direct conversation": saying(Conversation(ConversationKind.DIRECT, "", (ANNA, BORIS)), scope=DIRECT),
    "a kind that is not known here (R15)": Pen().unknown(),
}


@pytest.mark.parametrize("event", FINE.values(), ids=FINE)
def test_what_is_well_formed_passes(event: Event) -> None:
    check_form(event)


CROWD = tuple(number.to_bytes(16, "big") for number in range(limits.MAX_MEMBERS + 1))
BAD = {
    "one byte too long": (saying(Message("x" * (limits.MAX_TEXT_BYTES + 1))), Code.TOO_LARGE),
    "long in bytes, not in letters": (saying(Message("한" * (limits.MAX_TEXT_BYTES // 3 + 1))), Code.TOO_LARGE),
    "long and encrypted": (saying(Message(encrypted=b"x" * (limits.MAX_TEXT_BYTES + 1))), Code.TOO_LARGE),
    "long in its files": (saying(Message("x", attachments=(FILE,) * 1500)), Code.TOO_LARGE),
    "a message that says nothing": (saying(Message()), Code.MALFORMED),
    "a long edit": (saying(Edit(of_anna(), "x" * (limits.MAX_TEXT_BYTES + 1)), version=1), Code.TOO_LARGE),
    "an edit of what others said": (saying(Edit(Target(BORIS, b"m" * 16), "no"), version=1), Code.NOT_ALLOWED),
    "an edit of nothing": (saying(Edit(of_anna(b"m"), "x"), version=1), Code.MALFORMED),
    "a deletion of nothing": (saying(Deletion(of_anna(b""))), Code.MALFORMED),
    "a reaction without an emoji": (saying(Reaction(of_anna(), ""), version=1), Code.MALFORMED),
    "a reaction that is a novel": (saying(Reaction(of_anna(), "x" * 65), version=1), Code.TOO_LARGE),
    "a title that is a novel": (saying(Title("x" * 257), version=1), Code.TOO_LARGE),
    "a membership of nobody": (saying(Membership(b"", Role.MEMBER), version=1), Code.MALFORMED),
    "a membership with no role": (saying(Membership(CHLOE, 0), version=1), Code.MALFORMED),
    "a membership with a role unheard of": (saying(Membership(CHLOE, 9), version=1), Code.MALFORMED),
    "a receipt of no level": (saying(Receipt(3, "seoul-01A", 7), version=7), Code.MALFORMED),
    "a receipt of nothing": (saying(Receipt(Level.READ, "seoul-01A", 0)), Code.MALFORMED),
    "a receipt of another version": (saying(Receipt(Level.READ, "seoul-01A", 7), version=8), Code.MALFORMED),
    "an account": (saying(Account("anna", "Anna", "$argon2id$")), Code.NOT_ALLOWED),
    "a handle": (saying(HandleClaim("anna", ANNA)), Code.NOT_ALLOWED),
    "a conversation of strangers": (saying(Conversation(2, "", (BORIS, CHLOE))), Code.MALFORMED),
    "a conversation with doubles": (saying(Conversation(2, "", (ANNA, BORIS, BORIS))), Code.MALFORMED),
    "a conversation with half an account": (saying(Conversation(2, "", (ANNA, b"b"))), Code.MALFORMED),
    "a conversation of a third kind": (saying(Conversation(3, "", (ANNA, BORIS))), Code.MALFORMED),
    "a conversation with a novel for a title": (saying(Conversation(2, "x" * 257, (ANNA,))), Code.TOO_LARGE),
    "a conversation of too many": (saying(Conversation(2, "", CROWD), CROWD[0]), Code.TOO_LARGE),
    "a direct conversation of three": (
        saying(Conversation(1, "", (ANNA, BORIS, CHLOE)), scope=DIRECT), Code.MALFORMED,
    ),
    "a direct conversation with another's id": (
        saying(Conversation(1, "", (ANNA, CHLOE)), scope=DIRECT), Code.MALFORMED,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("event", "code"), BAD.values(), ids=BAD)
def test_what_is_badly_formed_is_refused_by_name(event: Event, code: Code) -> None:
    assert refused(check_form, event).code is code


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", b""), ("id", b"i" * 15), ("scope", b"s" * 17), ("sender", b"a"), ("session", b""), ("hlc", 0),
        ("hlc", 1 << 63), ("need", (("seoul-01A", 1),) * (limits.MAX_NEEDS + 1)),
    ],
)  # fmt: skip
def test_every_field_of_the_envelope_is_checked_and_named(field: str, value: object) -> None:
    event = saying(Message("hello"))._replace(**{field: value})  # type: ignore[arg-type]
    error = refused(check_form, event)
    assert error.code is Code.MALFORMED
    assert field in error.sentence


def test_a_register_cannot_be_frozen_by_a_version_that_has_no_successor() -> None:
    """Versions are 64 bits: after the last one nobody's SDK could ever write that register again."""
    assert refused(check_form, saying(Title("mine for ever"), version=(1 << 64) - 1)).code is Code.MALFORMED


# ---------------------------------------------------------------- stamp


def stamped(ms: int) -> Event:
    return saying(Message("hello"))._replace(hlc=pack(ms))


@given(st.integers(-2 * limits.MAX_AGE_MS, 2 * limits.BOUND_MS), st.integers(-limits.MAX_AGE_MS, limits.MAX_AGE_MS))
def test_a_stamp_passes_within_60_s_and_30_days_of_what_is_known_of_time(off_ms: int, lead_ms: int) -> None:
    highest = NOW_MS + lead_ms  # of accepted_at, from anyone: a region whose clock is fast decides for all (R2)
    now = max(NOW_MS, highest)
    event = stamped(now + off_ms)
    if off_ms > limits.BOUND_MS:
        assert refused(check_stamp, event, NOW_MS, pack(highest)).code is Code.STAMP_AHEAD
    elif off_ms < -limits.MAX_AGE_MS:
        assert refused(check_stamp, event, NOW_MS, pack(highest)).code is Code.STAMP_TOO_OLD
    else:
        check_stamp(event, NOW_MS, pack(highest))


def test_the_bounds_of_a_stamp_are_exact() -> None:
    check_stamp(stamped(NOW_MS + limits.BOUND_MS), NOW_MS, 0)
    check_stamp(stamped(NOW_MS - limits.MAX_AGE_MS), NOW_MS, 0)
    ahead = refused(check_stamp, stamped(NOW_MS + 120_000), NOW_MS, 0)
    assert (ahead.code, "120 s" in ahead.sentence) == (Code.STAMP_AHEAD, True)
    old = refused(check_stamp, stamped(NOW_MS - limits.MAX_AGE_MS - 1), NOW_MS, 0)
    assert (old.code, "30 days" in old.sentence) == (Code.STAMP_TOO_OLD, True)


# ---------------------------------------------------------------- right

GROUP = Rights(ConversationKind.GROUP, ANNA, {ANNA: Role.ADMIN, BORIS: Role.MEMBER, CHLOE: Role.NONE})  # chloe has left
TWO = Rights(ConversationKind.DIRECT, ANNA, {ANNA: Role.MEMBER, BORIS: Role.MEMBER})
HELLO = Message("hello")

MAY = {
    "a member speaks": (HELLO, BORIS, GROUP),
    "a member deletes what they said": (Deletion(Target(BORIS, b"m" * 16)), BORIS, GROUP),
    "an admin deletes what others said": (Deletion(Target(BORIS, b"m" * 16)), ANNA, GROUP),
    "an admin takes somebody in": (Membership(CHLOE, Role.MEMBER), ANNA, GROUP),
    "a member leaves": (Membership(BORIS, Role.NONE), BORIS, GROUP),
    "a member names a group": (Title("tea"), BORIS, GROUP),
    "two speak": (HELLO, BORIS, TWO),
    "its maker makes a group again": (Conversation(2, "tea", (ANNA,)), ANNA, GROUP),
    "the other of two makes it too": (Conversation(1, "", (ANNA, BORIS)), BORIS, TWO),
    "somebody makes a new one": (Conversation(2, "tea", (ANNA,)), ANNA, None),
}


@pytest.mark.parametrize(("body", "sender", "rights"), MAY.values(), ids=MAY)
def test_who_may_may(body: Body, sender: bytes, rights: Rights | None) -> None:
    check_right(saying(body, sender), sender, rights)


LEFT_BY_ITS_MAKER = Rights(ConversationKind.GROUP, ANNA, {ANNA: Role.NONE, BORIS: Role.ADMIN})

MAY_NOT = {
    "who made a group and has left makes it again": (
        Conversation(2, "", (ANNA,)), ANNA, LEFT_BY_ITS_MAKER, Code.NOT_ALLOWED,
    ),
    "nobody knows the conversation": (HELLO, ANNA, None, Code.UNKNOWN_CONVERSATION),
    "a stranger speaks": (HELLO, MALLORY, GROUP, Code.NOT_A_MEMBER),
    "who has left speaks": (HELLO, CHLOE, GROUP, Code.NOT_A_MEMBER),
    "a third speaks where two talk": (HELLO, CHLOE, TWO, Code.NOT_A_MEMBER),
    "a stranger takes themselves in": (Membership(MALLORY, Role.MEMBER), MALLORY, GROUP, Code.NOT_A_MEMBER),
    "who has left takes themselves in": (Membership(CHLOE, Role.MEMBER), CHLOE, GROUP, Code.NOT_A_MEMBER),
    "a member makes themselves admin": (Membership(BORIS, Role.ADMIN), BORIS, GROUP, Code.NOT_ALLOWED),
    "a member takes somebody in": (Membership(CHLOE, Role.MEMBER), BORIS, GROUP, Code.NOT_ALLOWED),
    "a member throws the admin out": (Membership(ANNA, Role.NONE), BORIS, GROUP, Code.NOT_ALLOWED),
    "a third joins two": (Membership(CHLOE, Role.MEMBER), ANNA, TWO, Code.NOT_ALLOWED),
    "two have a title": (Title("us"), ANNA, TWO, Code.NOT_ALLOWED),
    "a member deletes what others said": (Deletion(of_anna()), BORIS, GROUP, Code.NOT_ALLOWED),
    "one of two deletes what the other said": (Deletion(of_anna()), BORIS, TWO, Code.NOT_ALLOWED),
    "somebody makes another's group": (Conversation(2, "", (MALLORY,)), MALLORY, GROUP, Code.NOT_ALLOWED),
    "a third makes a group of where two talk": (
        Conversation(2, "", (MALLORY, ANNA)), MALLORY, TWO, Code.NOT_ALLOWED,
    ),
    "one of two makes a group of where they talk": (
        Conversation(2, "", (ANNA, BORIS, CHLOE)), ANNA, TWO, Code.NOT_ALLOWED,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "sender", "rights", "code"), MAY_NOT.values(), ids=MAY_NOT)
def test_who_may_not_is_told_by_name(body: Body, sender: bytes, rights: Rights | None, code: Code) -> None:
    assert refused(check_right, saying(body, sender), sender, rights).code is code


@pytest.mark.parametrize("body", [HELLO, Conversation(2, "", (ANNA, BORIS))])
def test_nobody_speaks_for_another(body: Body) -> None:
    assert refused(check_right, saying(body, ANNA), BORIS, GROUP).code is Code.NOT_ALLOWED


def test_a_group_does_not_take_the_id_that_two_would_have() -> None:
    """Else anybody makes a group of anna's and boris's talk before they do, and is its admin."""
    event = saying(Conversation(ConversationKind.GROUP, "", (MALLORY, ANNA, BORIS)), MALLORY, scope=DIRECT)
    assert refused(check_form, event).code is Code.MALFORMED


def test_a_groups_id_belongs_to_who_makes_it_and_to_the_event_that_does() -> None:
    """Else a member makes it again where nobody knows it yet, with an older stamp, and is its admin."""
    made = saying(Conversation(ConversationKind.GROUP, "tea", (ANNA, MALLORY)))
    check_form(encode_event(made._replace(scope=group_scope(ANNA, made.id), raw=b"")))
    again = saying(Conversation(ConversationKind.GROUP, "tea", (MALLORY,)), MALLORY, scope=group_scope(ANNA, made.id))
    assert refused(check_form, again).code is Code.MALFORMED


@given(st.sampled_from([ANNA, BORIS, CHLOE, MALLORY]), st.binary(min_size=16, max_size=16), st.integers(1, 3))
def test_only_an_admin_or_oneself_ever_changes_a_membership(sender: bytes, who: bytes, role: int) -> None:
    event = encode_event(saying(Membership(who, role), sender, version=1))
    may = sender == ANNA or (sender == BORIS == who and role == Role.NONE)
    if may:
        check_right(event, sender, GROUP)
    else:
        refused(check_right, event, sender, GROUP)
