"""A history to and from its lines of JSON; reading checks every field's type and that nothing was cut off."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import cache
from types import UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

from evertalk.core.history import (
    EFFECTS,
    KINDS,
    LIMITS,
    OUTCOMES,
    SCHEMA,
    Fault,
    Header,
    History,
    HistoryDamaged,
    Record,
    Shown,
    Told,
)

_MAX_T = 1e9
_WORDS = {cls: word for word, cls in KINDS.items()}
_ENCODE = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode

# ---------------------------------------------------------------- to lines


def to_line(record: Record) -> str:
    """One record as a line of JSON, without its newline; ids may still be bytes in it."""
    return line_of(_WORDS[type(record)], record)


def line_of(word: str, values: Iterable[Any]) -> str:
    """A line from a kind's word and its fields' values in order; bytes become hex, defaults are left out."""
    cls = KINDS[word]
    defaults = cls._field_defaults
    fields: dict[str, Any] = {"k": word}
    for name, value in zip(cls._fields, values, strict=True):
        if name not in defaults or value != defaults[name]:
            fields[name] = _plain(value)
    return _ENCODE(fields)


def header_line(header: Header) -> str:
    """Line 1."""
    fields = {**header._asdict(), "cluster": header.cluster._asdict(), "load": header.load._asdict()}
    return _ENCODE({"schema": SCHEMA, **fields})


def end_line(records: int) -> str:
    """The last line of a history of so many records."""
    return _ENCODE({"k": "end", "lines": records + 2})


def to_lines(history: History) -> Iterator[str]:
    """Every line of a history, without newlines."""
    yield header_line(history.header)
    for record in history.records:
        yield to_line(record)
    yield end_line(len(history.records))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value


# ---------------------------------------------------------------- from lines

Shape = Callable[[Any], Any]


def from_lines(lines: Iterable[str | bytes]) -> History:
    """A history from its lines.

    Raises:
        HistoryDamaged: the sentence names the line.
    """
    header: Header | None = None
    records: list[Record] = []
    ended = 0
    number = 0
    for number, line in enumerate(lines, 1):
        fields = _parse(line, number)
        if ended:
            raise HistoryDamaged(f"line {number} comes after the end record in line {ended}")
        try:
            if header is None:
                header = _header(fields)
            elif fields.get("k") == "end":
                ended = _end(fields, number)
            else:
                records.append(_record(fields))
        except ValueError as error:
            raise HistoryDamaged(f"line {number} of the history is not what it should be: {error}") from error
    if header is None:
        raise HistoryDamaged("the history is empty")
    if not ended:
        raise HistoryDamaged(f"the history is truncated: it stops after line {number} without its end record")
    return History(header, records)


def _constant(name: str) -> None:
    raise ValueError(f"{name} is no number of a history")


_DECODE = json.JSONDecoder(parse_constant=_constant).decode


def _parse(line: str | bytes, number: int) -> dict[str, Any]:
    try:
        fields = _DECODE(line if isinstance(line, str) else line.decode())
    except (ValueError, RecursionError) as error:  # covers broken UTF-8 and JSON
        raise HistoryDamaged(f"line {number} of the history is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise HistoryDamaged(f"line {number} of the history is not a JSON object")
    return fields


def _end(fields: dict[str, Any], number: int) -> int:
    if fields != {"k": "end", "lines": number}:
        raise ValueError(f"the end record counts {fields.get('lines')} lines, this is line {number}")
    return number


def _header(fields: dict[str, Any]) -> Header:
    schema = fields.pop("schema", None)
    if schema != SCHEMA:
        raise ValueError(f"its schema is {schema!r}, known is {SCHEMA!r}")
    header: Header = _shape_of(Header)(fields)
    if not set(header.limits) <= LIMITS:
        raise ValueError(f"known limits are {', '.join(sorted(LIMITS))}")
    return header


def _record(fields: dict[str, Any]) -> Record:
    word = fields.pop("k", None)
    cls = KINDS.get(word) if isinstance(word, str) else None
    if cls is None:
        raise ValueError(f"there is no kind of record {word!r}")
    record: Record = _shape_of(cast(Hashable, cls))(fields)
    if not 0 <= record.t < _MAX_T:
        raise ValueError("its time is outside the run")
    if isinstance(record, Told) and record.outcome not in OUTCOMES:
        raise ValueError(f"no send comes to {record.outcome!r}")
    if isinstance(record, Fault) and record.effect not in EFFECTS:
        raise ValueError(f"no fault has the effect {record.effect!r}")
    return record


@cache
def _shape_of(hint: Any) -> Shape:
    """A function that checks a parsed value against a type hint and returns it as that type.

    It raises ValueError. Named tuples come from objects (Shown, which lies in lists, from a list).
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is UnionType:
        inner = _shape_of(args[0])
        return lambda value: None if value is None else inner(value)
    if origin is tuple and args[1:] == (...,):
        return _list_shape(_shape_of(args[0]))
    if origin is tuple:
        return _row_shape(tuple, tuple(_shape_of(a) for a in args))
    if hint is Shown:
        hints = get_type_hints(hint)
        return _row_shape(Shown._make, tuple(_shape_of(hints[f]) for f in Shown._fields))
    if hasattr(hint, "_fields"):
        return _object_shape(hint)
    if origin is not None:
        return _mapping_shape(_shape_of(args[1]))
    return _plain_shape(hint)


def _plain_shape(hint: type) -> Shape:
    allowed = (float, int) if hint is float else (hint,)

    def shape(value: Any) -> Any:
        if type(value) not in allowed:
            raise ValueError(f"{value!r:.40} is no {hint.__name__}")
        return value

    return shape


def _list_shape(inner: Shape) -> Shape:
    def shape(value: Any) -> Any:
        if type(value) is not list:
            raise ValueError(f"{value!r:.40} is no list")
        return tuple([inner(v) for v in value])

    return shape


def _row_shape(make: Callable[[list[Any]], Any], inner: tuple[Shape, ...]) -> Shape:
    def shape(value: Any) -> Any:
        if type(value) is not list or len(value) != len(inner):
            raise ValueError(f"{value!r:.40} is no list of {len(inner)}")
        return make([one(v) for one, v in zip(inner, value, strict=True)])

    return shape


def _mapping_shape(inner: Shape) -> Shape:
    def shape(value: Any) -> Any:
        if type(value) is not dict:
            raise ValueError(f"{value!r:.40} is no object")
        return {key: inner(v) for key, v in value.items()}

    return shape


def _object_shape(cls: Any) -> Shape:
    hints = get_type_hints(cls)
    shapes = {name: _shape_of(hints[name]) for name in cls._fields}
    required = frozenset(cls._fields) - frozenset(cls._field_defaults)

    def shape(value: Any) -> Any:
        if type(value) is not dict:
            raise ValueError(f"{value!r:.40} is no object")
        if not required <= value.keys() <= shapes.keys():
            odd = sorted((required - value.keys()) | (value.keys() - shapes.keys()))
            raise ValueError(f"{cls.__name__} has missing or unknown fields: {', '.join(odd)}")
        return cls(**{name: shapes[name](v) for name, v in value.items()})

    return shape
