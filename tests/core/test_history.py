"""A history survives its file form, and a file that is not whole or not one is refused in a sentence."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertalk.core.history import (
    KINDS,
    Connected,
    Disconnected,
    Gap,
    Gauge,
    Hedged,
    History,
    HistoryDamaged,
    Invoke,
    body_digest,
)
from evertalk.core.history_lines import from_lines, to_lines
from evertalk.core.model import Edit, Event, Kind, Message, Reaction, Target
from tests.core.stories import HEADER, Story, simulate


def every_kind() -> History:
    story = Story().says("ana", "m1").replicated("m1").shown("bo", "m1", late=True).says("bo", "m2", "m1")
    story.says("ana", "x", op="delete", target="m1").told("m2", "failed").gap("bo", ("seoul-1", 0, 3))
    story.fault("lost").watermark(4).gone("bo", kept=True).returned().reads("ana", "m1", gap=True, orphans=("m1",))
    story.records += [
        Connected(8.0, "ana", "seoul", "seoul-a"),
        Disconnected(8.1, "ana", "seoul", "seoul-a"),
        Hedged(8.2, "ana", "busan", "busan-a"),
        Gauge(8.3, "rss_bytes", 1e6),
        Invoke(8.4, "cy", "s", "message", "c0", "u", "m3", 9, need=(("seoul-1", 2),)),
    ]
    history = story.ends("m1")
    assert {type(r) for r in history.records} == set(KINDS.values())
    return history


def test_every_kind_of_record_comes_back_as_it_was() -> None:
    history = every_kind()
    assert from_lines(to_lines(history)) == history


@pytest.mark.parametrize("seed", range(4))
def test_a_run_comes_back_as_it_was(seed: int) -> None:
    history = simulate(seed)
    assert from_lines(line.encode() for line in to_lines(history)) == history


def test_defaults_are_left_out_of_a_line() -> None:
    line = list(to_lines(History(HEADER, [Gap(1.5, "ana", "s1")])))[1]
    assert json.loads(line) == {"k": "gap", "t": 1.5, "client": "ana", "session": "s1"}


def damage(lines: list[str]) -> str:
    with pytest.raises(HistoryDamaged) as caught:
        from_lines(lines)
    return str(caught.value)


def test_any_line_dropped_or_doubled_is_seen_by_the_count_at_the_end() -> None:
    lines = list(to_lines(every_kind()))
    for at in range(len(lines)):
        assert damage(lines[:at] + lines[at + 1 :])
        assert damage(lines[: at + 1] + lines[at:])


def test_a_truncated_history_says_so() -> None:
    lines = list(to_lines(every_kind()))
    for keep in range(1, len(lines)):
        assert "truncated" in damage(lines[:keep])
    assert "empty" in damage([])


@given(st.data())
def test_a_field_of_another_type_names_its_line(data: st.DataObject) -> None:
    lines = list(to_lines(every_kind()))
    at = data.draw(st.integers(0, len(lines) - 1))
    fields = json.loads(lines[at])
    name = data.draw(st.sampled_from(sorted(fields)))
    odd: list[object] = [None, [], {}, "x", 1, True, [1], ["x"], {"x": "x"}, [["x"]]]
    value = data.draw(st.sampled_from([v for v in odd if not alike(v, fields[name])]))
    lines[at] = json.dumps({**fields, name: value})
    found = read(lines)
    if isinstance(found, str):
        assert f"line {at + 1}" in found or "truncated" in found
    else:  # only where None, or an empty or free-form object or list, is a value like any other
        assert value in (None, [], {}) or name in ("nodes", "cluster"), (name, value)
        assert found != from_lines(to_lines(every_kind()))


def read(lines: list[str]) -> History | str:
    """The history, or the sentence that refuses it."""
    try:
        return from_lines(lines)
    except HistoryDamaged as error:
        return str(error)


def alike(one: object, other: object) -> bool:
    numbers = (int, float)
    if isinstance(one, bool) or isinstance(other, bool):
        return isinstance(one, bool) and isinstance(other, bool)
    return type(one) is type(other) or (isinstance(one, numbers) and isinstance(other, numbers))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "not JSON"),
        ('{"k": "told"', "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"k": "guess", "t": 1}', "no kind of record 'guess'"),
        ('{"t": 1}', "no kind of record None"),
        ('{"k": "returned", "t": 1}', "missing or unknown fields: target"),
        ('{"k": "returned", "t": 1, "target": "seoul", "x": 1}', "missing or unknown fields: x"),
        ('{"k": "returned", "t": NaN, "target": "seoul"}', "NaN"),
        ('{"k": "returned", "t": 1e999, "target": "seoul"}', "outside the run"),
        ('{"k": "returned", "t": -1, "target": "seoul"}', "outside the run"),
        ('{"k": "returned", "t": true, "target": "seoul"}', "True is no float"),
        ('{"k": "told", "t": 1, "client": "ana", "id": "m1", "outcome": "fine"}', "no send comes to 'fine'"),
        ('{"k": "fault", "t": 1, "verb": "kill", "target": "x", "effect": "bad"}', "no fault has the effect"),
    ],
)
def test_a_broken_line_is_named_with_what_is_wrong(line: str, why: str) -> None:
    head, *_, end = to_lines(History(HEADER, [Gap(1.0, "ana", "s1")]))
    sentence = damage([head, line, end])
    assert "line 2" in sentence
    assert why in sentence


def test_another_schema_is_refused() -> None:
    lines = list(to_lines(every_kind()))
    lines[0] = lines[0].replace("evertalk.history/1", "evertalk.history/2")
    assert "evertalk.history/2" in damage(lines)


def test_an_unknown_limit_is_refused() -> None:
    assert "known limits" in damage(list(to_lines(History(HEADER._replace(limits={"luck": 1.0}), []))))


def test_the_digest_of_a_body_is_of_what_is_said() -> None:
    def event(body: Message | Edit | Reaction | None, kind: int) -> Event:
        return Event(b"i", b"c", b"u", b"s", 1, kind, body)

    hi = body_digest(event(Message("hi"), Kind.MESSAGE))
    assert hi == "8f434346648f6b96"  # sha256 of "hi"
    assert body_digest(event(Message("ho"), Kind.MESSAGE)) != hi
    assert body_digest(event(Message(encrypted=b"hi"), Kind.MESSAGE)) == hi
    assert body_digest(event(Edit(Target(b"u", b"i"), "hi"), Kind.EDIT)) == hi
    on, off = (body_digest(event(Reaction(Target(b"u", b"i"), "x", gone), Kind.REACTION)) for gone in (False, True))
    assert on != off
    assert body_digest(event(None, Kind.UNKNOWN)) == ""
