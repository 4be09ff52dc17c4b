"""Events off their bytes: the short way for plain messages says what protobuf says, or nothing."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from evertalk.adapters import wire
from evertalk.core.errors import Code, Refused
from evertalk.core.model import Event, Kind, Message
from evertalk.v1 import event_pb2

ID, SESSION, NOTHING = st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8), st.just(b"")
NUMBER = st.integers(0, 2**64 - 1)
NEEDS = st.lists(st.tuples(st.text(max_size=30), NUMBER), max_size=4).map(tuple)
PLAIN = st.builds(
    Event,
    id=ID, scope=ID, sender=ID, session=SESSION, hlc=st.integers(1, 2**64 - 1), kind=st.just(Kind.MESSAGE),
    body=st.text(min_size=1, max_size=300).map(Message), need=NEEDS, version=st.just(0), expires_at_ms=st.just(0),
    raw=NOTHING,
)  # fmt: skip
HEAD = event_pb2.Event(id=b"i" * 16, scope=b"s" * 16, sender=b"a" * 16, session=b"s" * 8, hlc=1).SerializeToString()
NEED = event_pb2.Event(need=[event_pb2.Need(origin="seoul-01", position=7)]).SerializeToString()
TEXT = event_pb2.Event(message=event_pb2.Message(text="hello")).SerializeToString()


def with_(**fields: Any) -> bytes:
    return event_pb2.Event(**fields).SerializeToString()


NEARLY_PLAIN = {
    "no body": HEAD + NEED,
    "no needs": HEAD + TEXT,
    "fields after the body": HEAD + NEED + TEXT + with_(hlc=5),
    "a need after the body": HEAD + TEXT + NEED,
    "a second body": HEAD + TEXT + TEXT,
    "another body": HEAD + with_(edit=event_pb2.Edit(text="x")),
    "a title": HEAD + with_(title=event_pb2.Title(title="x")),
    "a reply": HEAD + NEED + with_(message=event_pb2.Message(text="x", reply_to=b"r" * 16)),
    "encrypted": HEAD + with_(message=event_pb2.Message(encrypted=b"x")),
    "an empty message": HEAD + with_(message=event_pb2.Message()),
    "a version": HEAD + with_(version=3) + TEXT,
    "it expires": HEAD + with_(expires_at_ms=3) + TEXT,
    "a field of later days": HEAD + b"x\x05" + TEXT,
    "fields in another order": HEAD[18:36] + HEAD[:18] + HEAD[36:] + TEXT,
    "a shorter id": with_(id=b"i" * 15) + HEAD[18:] + TEXT,
    "a need of 130 bytes": HEAD + with_(need=[event_pb2.Need(origin="o" * 120, position=1 << 50)]) + TEXT,
    "a text of 200": HEAD + with_(message=event_pb2.Message(text="x" * 200)),
    "a text of 20,000": HEAD + with_(message=event_pb2.Message(text="x" * 20_000)),
    "a size in more bytes than it takes": HEAD + b"\x82\x01\x84\x00\n\x02hi",
    "a size in many more": HEAD + b"\x82\x01\x84\x80\x00\n\x02hi",
    "a text in two parts": HEAD + b"\x82\x01\x06\n\x01h\n\x01i",
    "nothing": b"",
}


def by_library(raw: bytes) -> Event:
    """Decoded with the short way closed."""
    with pytest.MonkeyPatch.context() as closed:
        closed.setattr(wire, "_plain_message", lambda raw: None)
        return wire._decode(raw)


@pytest.mark.parametrize("raw", NEARLY_PLAIN.values(), ids=NEARLY_PLAIN.keys())
def test_what_is_nearly_plain_is_read_as_protobuf_reads_it(raw: bytes) -> None:
    assert wire.decode_event(raw) == by_library(raw)


def test_what_is_remembered_of_needs_is_small() -> None:
    before = wire._needs.cache_info().currsize
    raw = HEAD + with_(need=[event_pb2.Need(origin="o" * 1200, position=1)] * 8) + TEXT
    assert wire.decode_event(raw) == by_library(raw)
    raw = HEAD + NEED * 100 + TEXT
    assert wire.decode_event(raw) == by_library(raw)
    assert wire._needs.cache_info().currsize == before


@given(PLAIN)
def test_a_plain_message_takes_the_short_way(event: Event) -> None:
    raw = wire.encode_event(event).raw
    assert wire._plain_message(raw) == by_library(raw) == wire.encode_event(event)


@given(PLAIN, st.data())
def test_whatever_else_comes_is_read_as_protobuf_reads_it(event: Event, data: st.DataObject) -> None:
    raw = wire.encode_event(event).raw
    at, end = sorted((data.draw(st.integers(0, len(raw))), data.draw(st.integers(0, len(raw)))))
    raw = raw[:at] + data.draw(st.binary(max_size=4)) + raw[end:]
    short = wire._plain_message(raw)
    assert short is None or short == by_library(raw)


UNREADABLE = {
    "bytes are missing": b"\x82\x01\x03\n\x02x",
    "no utf-8": b"\x82\x01\x03\n\x01\xff",
    "a body without size": b"\x82\x01",
    "a body that ends within its text": b"\x82\x01\x02\n\x02hi",
    "a need that ends too early": b"2\x05\n",
    "a need within which another begins": b"2\x02\n\x09\x82\x01\x03\n\x01x",
    "a size of three bytes, of which two would do": b"\x82\x01\x80\x80\n\xfd\x7f" + b"x" * 16381,
}


@pytest.mark.parametrize("tail", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_protobuf_cannot_read_is_refused_by_name(tail: bytes) -> None:
    with pytest.raises(DecodeError):
        event_pb2.Event.FromString(HEAD + tail)
    with pytest.raises(Refused) as refused:
        wire.decode_event(HEAD + tail)
    assert refused.value.code is Code.MALFORMED
