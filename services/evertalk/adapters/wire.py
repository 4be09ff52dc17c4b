"""Between plain data and protobuf: events, batches, vectors. The only translation; both ways in one place."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache

from google.protobuf.message import DecodeError

from evertalk.core import model
from evertalk.core.errors import Code, Refused
from evertalk.core.ids import shard_of
from evertalk.core.model import Entry, Event, Grave, Kind, Record, Row
from evertalk.core.vector import Hole, Key, Vector
from evertalk.ports import RawEntry
from evertalk.v1 import chat_pb2, cluster_pb2, event_pb2, vector_pb2

_KINDS = {
    "message": Kind.MESSAGE,
    "edit": Kind.EDIT,
    "deletion": Kind.DELETION,
    "reaction": Kind.REACTION,
    "conversation": Kind.CONVERSATION,
    "membership": Kind.MEMBERSHIP,
    "title": Kind.TITLE,
    "receipt": Kind.RECEIPT,
    "account": Kind.ACCOUNT,
    "handle_claim": Kind.HANDLE_CLAIM,
}

# A node meets an event again and again: on a stream, in the log, in another copy. Small ones are decoded once.
_SMALL_BYTES = 1024
_REMEMBERED = 1024


def decode_event(raw: bytes) -> Event:
    """An event from its bytes, which it keeps.

    Raises:
        Refused: MALFORMED.
    """
    return _decode_small(raw) if len(raw) <= _SMALL_BYTES else _decode(raw)


def _decode(raw: bytes) -> Event:
    event = _plain_message(raw)
    if event is not None:
        return event
    try:
        pb = event_pb2.Event.FromString(raw)
    except DecodeError as error:
        raise Refused(Code.MALFORMED, "an event does not parse as evertalk.v1.Event") from error
    field = pb.WhichOneof("body")
    return Event(
        pb.id, pb.scope, pb.sender, pb.session, pb.hlc, _KINDS[field] if field else Kind.UNKNOWN, _body(pb, field),
        tuple([(n.origin, n.position) for n in pb.need]) if pb.need else (), pb.version, pb.expires_at_ms, raw,
    )  # fmt: skip


_decode_small = lru_cache(_REMEMBERED)(_decode)


# What SDKs send most: a text and nothing else, its fields in order, as every protobuf library writes them.
_PLAIN = struct.Struct("<H16sH16sH16sH8sBQ")
_PLAIN_TAGS = (0x100A, 0x1012, 0x101A, 0x0822, 0x29)
_NEED_TAG, _MESSAGE_TAG, _TEXT_TAG = 0x32, b"\x82\x01", 0x0A


def _plain_message(raw: bytes) -> Event | None:
    """The event, if it is a message with a text and nothing else: in half the time that reading its fields out of a
    protobuf message takes. None for whatever looks different in any way: the library decides about that.
    """
    try:
        tag_1, id, tag_2, scope, tag_3, sender, tag_4, session, tag_5, hlc = _PLAIN.unpack_from(raw)
        if (tag_1, tag_2, tag_3, tag_4, tag_5) != _PLAIN_TAGS:
            return None
        needs = at = _PLAIN.size
        while raw[at] == _NEED_TAG:
            at += 2 + raw[at + 1] if raw[at + 1] < 0x80 else len(raw)
        if at > _SMALL_BYTES or raw[at : at + 2] != _MESSAGE_TAG:
            return None
        need = _needs(raw[needs:at]) if at > needs else ()
        size, at = _size(raw, at + 2)
        if at + size != len(raw) or raw[at] != _TEXT_TAG:
            return None
        size, at = _size(raw, at + 1)
        if at + size != len(raw):
            return None
        return Event(id, scope, sender, session, hlc, Kind.MESSAGE, model.Message(raw[at:].decode()), need, 0, 0, raw)
    except (struct.error, IndexError, UnicodeDecodeError, DecodeError):
        return None


def _size(raw: bytes, at: int) -> tuple[int, int]:
    """A varint of at most two bytes, and where it ends."""
    size = raw[at]
    if size < 0x80:
        return size, at + 1
    if raw[at + 1] >= 0x80:
        return len(raw), at  # of three bytes or more: no end of this event
    return size & 0x7F | raw[at + 1] << 7, at + 2


@lru_cache(_REMEMBERED)
def _needs(fields: bytes) -> tuple[tuple[str, int], ...]:
    """The needs of an event, from these fields of it: what is sent in one frame mostly needs the same."""
    return tuple([(n.origin, n.position) for n in event_pb2.Event.FromString(fields).need])


def _target(pb: event_pb2.Target) -> model.Target:
    return model.Target(pb.sender, pb.id)


def _attachments(pb: event_pb2.Message) -> tuple[model.Attachment, ...]:
    return tuple([model.Attachment(a.sha256, a.size_bytes, a.media_type, a.name) for a in pb.attachments])


def _body(pb: event_pb2.Event, field: str | None) -> model.Body:
    match field:  # by its name: enum members take long to look up. To iterate over nothing, as long as three fields
        case "message":
            m = pb.message
            return model.Message(
                m.text, m.encrypted, m.reply_to, m.reply_to_sender, _attachments(m) if m.attachments else ()
            )
        case "edit":
            return model.Edit(_target(pb.edit.target), pb.edit.text, pb.edit.encrypted)
        case "deletion":
            return model.Deletion(_target(pb.deletion.target))
        case "reaction":
            return model.Reaction(_target(pb.reaction.target), pb.reaction.emoji, pb.reaction.removed)
        case "conversation":
            c = pb.conversation
            return model.Conversation(c.kind, c.title, tuple(c.members))
        case "membership":
            return model.Membership(pb.membership.account, pb.membership.role)
        case "title":
            return model.Title(pb.title.title)
        case "receipt":
            return model.Receipt(pb.receipt.level, pb.receipt.origin, pb.receipt.position)
        case "account":
            a = pb.account
            return model.Account(a.handle, a.display_name, a.password_hash)
        case "handle_claim":
            return model.HandleClaim(pb.handle_claim.handle, pb.handle_claim.account)
    return None


def encode_event(event: Event) -> Event:
    """The same event with `raw` filled in; an event is serialized once in its life."""
    pb = event_pb2.Event(
        id=event.id,
        scope=event.scope,
        sender=event.sender,
        session=event.session,
        hlc=event.hlc,
        need=[event_pb2.Need(origin=o, position=p) for o, p in event.need],
        version=event.version,
        expires_at_ms=event.expires_at_ms,
    )
    body = event.body
    match body:
        case model.Message():
            pb.message.reply_to, pb.message.reply_to_sender = body.reply_to, body.reply_to_sender
            if body.encrypted:
                pb.message.encrypted = body.encrypted
            else:
                pb.message.text = body.text
            for a in body.attachments:
                pb.message.attachments.add(
                    sha256=a.sha256, size_bytes=a.size_bytes, media_type=a.media_type, name=a.name
                )
        case model.Edit():
            pb.edit.target.sender, pb.edit.target.id = body.target.sender, body.target.id
            pb.edit.text, pb.edit.encrypted = body.text, body.encrypted
        case model.Deletion():
            pb.deletion.target.sender, pb.deletion.target.id = body.target.sender, body.target.id
        case model.Reaction():
            pb.reaction.target.sender, pb.reaction.target.id = body.target.sender, body.target.id
            pb.reaction.emoji, pb.reaction.removed = body.emoji, body.removed
        case model.Conversation():
            pb.conversation.kind = body.kind  # type: ignore[assignment]
            pb.conversation.title = body.title
            pb.conversation.members.extend(body.members)
        case model.Membership():
            pb.membership.account, pb.membership.role = body.account, body.role  # type: ignore[assignment]
        case model.Title():
            pb.title.title = body.title
        case model.Receipt():
            pb.receipt.level, pb.receipt.origin = body.level, body.origin  # type: ignore[assignment]
            pb.receipt.position = body.position
        case model.Account():
            pb.account.handle, pb.account.display_name = body.handle, body.display_name
            pb.account.password_hash = body.password_hash
        case model.HandleClaim():
            pb.handle_claim.handle, pb.handle_claim.account = body.handle, body.account
        case None:
            raise ValueError("an event of unknown kind cannot be made here, only passed on")
    return event._replace(raw=pb.SerializeToString(deterministic=True))


def encode_batch(records: Iterable[Record]) -> bytes:
    """Payload of one log entry."""
    return event_pb2.Batch(
        records=[event_pb2.Record(event=r.event.raw, accepted_at=r.accepted_at) for r in records]
    ).SerializeToString()


def decode_batch(payload: bytes, here: bool = False) -> tuple[Record, ...]:
    """Records of one log entry.

    Args:
        here: its sends may have come in here. What has not is not worth remembering: it drives out what has.

    Raises:
        Refused: MALFORMED.
    """
    decode = decode_event if here else _decode
    try:
        pb = event_pb2.Batch.FromString(payload)
    except DecodeError as error:
        raise Refused(Code.MALFORMED, "a log entry does not parse as evertalk.v1.Batch") from error
    return tuple([Record(decode(r.event), r.accepted_at) for r in pb.records])


def decode_entry(raw: RawEntry) -> Entry:
    """A stream entry with its records."""
    return Entry(raw.stream.origin, raw.stream.shard, raw.position, decode_batch(raw.payload))


def encode_vector(vector: Vector) -> vector_pb2.Vector:
    """A vector with its holes."""
    by_origin: dict[str, dict[int, int]] = {}
    for (origin, shard), position in vector:
        by_origin.setdefault(origin, {})[shard] = position
    holes: dict[str, list[Hole]] = {}
    for hole in sorted(vector.holes):
        holes.setdefault(hole.origin, []).append(hole)
        by_origin.setdefault(hole.origin, {})
    return vector_pb2.Vector(
        origins=[
            vector_pb2.OriginPositions(
                origin=origin,
                positions=[shards.get(s, 0) for s in range(max(shards, default=-1) + 1)],
                holes=[vector_pb2.Hole(shard=h.shard, first=h.first, last=h.last) for h in holes.get(origin, ())],
            )
            for origin, shards in sorted(by_origin.items())
        ]
    )


def marker_field(vector: Vector) -> bytes:
    """A frame with this marker only. All readers of a group are told the same at the same time."""
    if vector.holes:
        return chat_pb2.SessionResponse(marker=encode_vector(vector)).SerializeToString()
    return _marker_field(tuple(vector))


@lru_cache(64)
def _marker_field(positions: tuple[tuple[Key, int], ...]) -> bytes:
    return chat_pb2.SessionResponse(marker=encode_vector(Vector(dict(positions)))).SerializeToString()


def decode_vector(pb: vector_pb2.Vector) -> Vector:
    """A vector with its holes."""
    positions = {(o.origin, s): p for o in pb.origins for s, p in enumerate(o.positions)}
    holes = [Hole(o.origin, h.shard, h.first, h.last) for o in pb.origins for h in o.holes]
    return Vector(positions, holes)


def vector_to_bytes(vector: Vector) -> bytes:
    """Serialized vector, for tokens and boards."""
    return encode_vector(vector).SerializeToString(deterministic=True)


def vector_from_bytes(raw: bytes) -> Vector:
    """Vector from its serialized form."""
    return decode_vector(vector_pb2.Vector.FromString(raw))


def encode_delivery(applied: model.Applied) -> chat_pb2.Delivery:
    """A delivery; serialize it once and send it to every reader."""
    return chat_pb2.Delivery(
        event=applied.event.raw,
        accepted_at=applied.accepted_at,
        origin=applied.origin,
        position=applied.position,
        late=applied.late,
        parent_missing=applied.parent_missing,
    )


#: Field 2 (deliveries) of SessionResponse, length-delimited.
_DELIVERY_TAG = b"\x12"


def delivery_field(applied: model.Applied) -> bytes:
    """A delivery as a field of a session's frame: serialized once, spliced into every reader's frames."""
    body = encode_delivery(applied).SerializeToString()
    size, varint = len(body), bytearray()
    while size > 0x7F:
        varint.append(size & 0x7F | 0x80)
        size >>= 7
    varint.append(size)
    return _DELIVERY_TAG + bytes(varint) + body


def decode_delivery(pb: chat_pb2.Delivery, shards: int) -> model.Applied:
    """A delivery as the SDK takes it."""
    event = decode_event(pb.event)
    return model.Applied(
        event,
        pb.accepted_at,
        pb.origin,
        shard_of(event.scope, shards),
        pb.position,
        pb.late,
        pb.parent_missing,
    )


def encode_rows(rows: Sequence[Row]) -> list[cluster_pb2.Row]:
    """Rows of an Export page."""
    return [
        cluster_pb2.Row(
            event=r.event.raw,
            accepted_at=r.accepted_at,
            copies=[cluster_pb2.Copy(origin=o, position=p) for o, p in r.copies],
        )
        for r in rows
    ]


def encode_graves(graves: Iterable[Grave]) -> list[cluster_pb2.Grave]:
    """Graves of an Export page."""
    return [
        cluster_pb2.Grave(
            conversation=g.scope,
            slot=g.slot,
            expires_at_ms=g.expires_at_ms,
            accepted_at=g.accepted_at,
            origin=g.origin,
        )
        for g in graves
    ]


def decode_graves(graves: Iterable[cluster_pb2.Grave]) -> list[Grave]:
    """Graves of an Export page."""
    return [Grave(g.conversation, g.slot, g.expires_at_ms, g.accepted_at, g.origin) for g in graves]


def decode_rows(rows: Iterable[cluster_pb2.Row]) -> list[Row]:
    """Rows of an Export page."""
    found = [Row(decode_event(r.event), r.accepted_at, tuple((c.origin, c.position) for c in r.copies)) for r in rows]
    if not all(row.copies for row in found):
        raise Refused(Code.MALFORMED, "a row of an Export names no copy")
    return found
