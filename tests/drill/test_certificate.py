"""The certificate says what the history says, and verify finds out whatever was changed in either."""

from __future__ import annotations

import gzip
import json
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from evertalk.core.checker import check
from evertalk.core.history import Final, Header, History, HistoryDamaged, Shown
from evertalk.core.history_lines import to_lines
from evertalk.core.model import Applied, Deletion, Event, Kind, Message, Target
from evertalk.core.vector import Vector
from evertalk.drill.certificate import (
    CERTIFICATE,
    CertificateError,
    sign,
    signing_key,
    verify,
    write_certificate,
)
from evertalk.drill.recorder import HISTORY, Recorder, read_history, write_lines
from tests.core.stories import HEADER, simulate

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def drill(tmp_path: Path) -> Path:
    """A drill's directory with the history of a lost region and its certificate."""
    write_lines(tmp_path, to_lines(simulate(1)))
    write_certificate(tmp_path, KEY)
    return tmp_path


def names(directory: Path) -> set[str]:
    return {difference.name for difference in verify(directory)}


def edit(directory: Path, change: Callable[[dict[str, Any]], None], key: Ed25519PrivateKey | None = None) -> None:
    """Change the certificate; sign it again if a key is given."""
    path = directory / CERTIFICATE
    certificate = json.loads(path.read_text())
    change(certificate)
    path.write_text(json.dumps(sign(certificate, key) if key else certificate))


# ---------------------------------------------------------------- writing


def test_a_certificate_that_says_what_its_history_says(drill: Path) -> None:
    certificate = json.loads((drill / CERTIFICATE).read_text())
    report = check(read_history(drill))
    assert certificate["schema"] == "evertalk.drill/1"
    assert certificate["verdict"] == "held"
    assert certificate["counts"] == report.counts
    assert certificate["cluster"]["regions"] == ["seoul", "busan"]
    (fault,) = certificate["faults"]
    assert (fault["verb"], fault["target"]) == ("lose", "seoul")
    assert fault["at_s"] < fault["until_s"]
    assert verify(drill) == []


def test_a_broken_history_is_certified_as_broken(tmp_path: Path) -> None:
    history = simulate(2)
    records = [r._replace(messages=r.messages[1:]) if isinstance(r, Final) else r for r in history.records]
    write_lines(tmp_path, to_lines(History(history.header, records)))
    certificate = write_certificate(tmp_path, KEY)
    assert certificate["verdict"] == "broken"
    assert certificate["violations"]["lost"] > 0
    assert certificate["reasons"]
    assert verify(tmp_path) == []


def test_the_same_history_gives_the_same_bytes(tmp_path: Path) -> None:
    lines = list(to_lines(simulate(1)))
    one, other = write_lines(tmp_path / "one", lines), write_lines(tmp_path / "other", lines)
    assert one.read_bytes() == other.read_bytes()
    assert one.read_bytes()[4:8] == bytes(4), "no time of writing in the file"
    assert [p.name for p in one.parent.iterdir()] == [HISTORY]


# ---------------------------------------------------------------- a changed history


def test_any_changed_byte_of_the_history_is_noticed(drill: Path) -> None:
    path = drill / HISTORY
    whole, chance = path.read_bytes(), random.Random(1)
    for at in [*range(12), *chance.sample(range(len(whole)), 40), *range(len(whole) - 8, len(whole))]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
        assert names(drill) & {"history", "history_sha256"}, f"byte {at}"


def test_a_truncated_history_is_one_clear_sentence(drill: Path) -> None:
    path = drill / HISTORY
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 20):
        path.write_bytes(whole[:size])
        (difference,) = verify(drill)
        assert difference.name == "history"
        assert "truncated" in difference.sentence


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"no gzip at all", "corrupt"),
        (gzip.compress(b"\xff\xfe\n"), "line 1"),
        (gzip.compress(b"{}\n"), "schema"),
    ],
    # Names of their own: gzip writes the time, and workers that collect in different seconds must agree.
    ids=["empty", "no-gzip", "no-text", "no-schema"],
)
def test_something_else_is_one_clear_sentence(drill: Path, content: bytes, why: str) -> None:
    (drill / HISTORY).write_bytes(content)
    (difference,) = verify(drill)
    assert difference.name == "history"
    assert why in difference.sentence


def test_no_history_is_one_clear_sentence(drill: Path) -> None:
    (drill / HISTORY).unlink()
    assert [str(d) for d in verify(drill)] == [f"history: there is no {HISTORY} in {drill}"]


def test_swapped_lines_are_noticed(drill: Path) -> None:
    lines = gzip.decompress((drill / HISTORY).read_bytes()).decode().splitlines()
    lines[3], lines[4] = lines[4], lines[3]
    write_lines(drill, lines)
    assert "history_sha256" in names(drill)


def test_another_history_under_the_certificate_is_noticed_in_every_field_it_changes(drill: Path) -> None:
    write_lines(drill, to_lines(simulate(2)))
    assert {"history_sha256", "counts.invoked", "rpo.accepted_messages", "faults"} <= names(drill)


# ---------------------------------------------------------------- a changed certificate


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every plain value of a JSON object."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    return [path] if items is None else [leaf for key, v in items for leaf in leaves(v, (*path, key))]


def set_at(certificate: dict[str, Any], path: tuple[Any, ...], value: Any) -> None:
    inner: Any = certificate
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value


def test_every_forged_value_is_noticed_signed_or_not(drill: Path) -> None:
    text = (drill / CERTIFICATE).read_text()
    for path in leaves(json.loads(text)):
        if path[0] in ("signature", "public_key"):
            continue
        for key, also in ((None, {"signature"}), (Ed25519PrivateKey.generate(), set())):
            (drill / CERTIFICATE).write_text(text)
            edit(drill, lambda c: set_at(c, path, 123456), key)  # noqa: B023
            found = names(drill)
            field = "certificate" if path == ("schema",) else path[0]
            assert any(name.split(".")[0] == field for name in found), path
            assert path == ("schema",) or also <= found


def test_a_field_taken_out_or_put_in_is_noticed(drill: Path) -> None:
    edit(drill, lambda c: c.pop("verdict"), KEY)
    assert names(drill) == {"verdict"}
    edit(drill, lambda c: c.update(verdict="held", stars=5), KEY)
    assert names(drill) == {"stars"}


def test_a_bool_is_no_number(drill: Path) -> None:
    edit(drill, lambda c: c["violations"].update(lost=False), KEY)
    assert names(drill) == {"violations.lost"}


def test_a_forged_verdict_signed_again_is_found_out(drill: Path) -> None:
    history = read_history(drill)
    records = [r._replace(messages=r.messages[1:]) if isinstance(r, Final) else r for r in history.records]
    write_lines(drill, to_lines(History(history.header, records)))
    honest = write_certificate(drill, KEY)
    edit(drill, lambda c: c.update(verdict="held", violations=dict.fromkeys(honest["violations"], 0)), KEY)
    assert {"verdict", "violations.lost"} <= names(drill)


@pytest.mark.parametrize("field", ["signature", "public_key"])
@pytest.mark.parametrize("value", ["", "????", 5, None, "AAAA", "A" * 86 + "=="])
def test_a_signature_that_is_none(drill: Path, field: str, value: object) -> None:
    edit(drill, lambda c: c.update({field: value}))
    assert names(drill) == {"signature"}
    edit(drill, lambda c: c.pop(field))
    assert names(drill) == {"signature"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"schema": "evertalk.drill/2"}', b"[" * 9999])
def test_what_is_no_certificate_is_one_clear_sentence(drill: Path, content: bytes) -> None:
    (drill / CERTIFICATE).write_bytes(content)
    (difference,) = verify(drill)
    assert difference.name == "certificate"


def test_numbers_that_json_does_not_have(drill: Path) -> None:
    edit(drill, lambda c: c.update(converged_s=float("nan")))
    assert {"signature", "converged_s"} <= names(drill)


# ---------------------------------------------------------------- the key


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERTALK_DRILL_KEY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    first = signing_key()
    path = tmp_path / "evertalk" / "drill.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert signing_key().private_bytes_raw() == first.private_bytes_raw()
    assert [p.name for p in path.parent.iterdir()] == ["drill.key"]


def test_the_state_directory_lies_below_home_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERTALK_DRILL_KEY", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    signing_key()
    assert (tmp_path / ".local/state/evertalk/drill.key").exists()


def test_another_key_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys" / "mine.pem"
    monkeypatch.setenv("EVERTALK_DRILL_KEY", str(path))
    write_lines(tmp_path, to_lines(simulate(1)))
    write_certificate(tmp_path)
    assert path.exists()
    assert verify(tmp_path) == []


def test_a_file_that_is_no_key_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "drill.key"
    path.write_text("nothing")
    monkeypatch.setenv("EVERTALK_DRILL_KEY", str(path))
    with pytest.raises(CertificateError, match=str(path)):
        signing_key()


# ---------------------------------------------------------------- the recorder


class Ticking:
    """A clock that goes on by half a second a look."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        self.at += 0.5
        return self.at


def record(header: Header = HEADER) -> Recorder:
    """ana says hi; bo answers while seoul is stopped; ana deletes hi."""
    recorder = Recorder(header, Ticking())
    talk, ana, bo, s_ana, s_bo = b"c" * 16, b"a" * 16, b"b" * 16, b"1" * 8, b"2" * 8
    hi = Event(b"m1" * 8, talk, ana, s_ana, 10, Kind.MESSAGE, Message("hi"))
    re = Event(b"m2" * 8, talk, bo, s_bo, 11, Kind.MESSAGE, Message("re", reply_to=hi.id, reply_to_sender=ana))
    bye = Event(b"x1" * 8, talk, ana, s_ana, 12, Kind.DELETION, Deletion(Target(ana, hi.id)))
    recorder.record_connected("ana", "seoul", "seoul-a")
    recorder.record_send("ana", hi)
    recorder.record_accepted("ana", hi.id, "seoul-1", 0, 1, "seoul-a", "seoul")
    recorder.record_watermark("busan", "seoul-1", 0, 1)
    recorder.record_told("ana", hi.id, "replicated")
    recorder.record_delivery("bo", s_bo, Applied(hi, 1, "seoul-1", 0, 1))
    fault = recorder.record_fault("stop", "seoul", "hang")
    recorder.record_disconnected("bo", "seoul", "seoul-a")
    recorder.record_hedged("bo", "busan", "busan-a")
    recorder.record_send("bo", re)
    recorder.record_accepted("bo", re.id, "busan-1", 0, 1, "busan-a", "busan")
    recorder.record_gap("ana", s_ana, Vector({("busan-1", 0): 1}))
    recorder.end_fault(fault)
    recorder.record_returned("seoul")
    asked = recorder.now()
    recorder.record_read("bo", s_bo, talk, [hi.id, re.id], asked, parent_missing=[re.id])
    recorder.record_send("ana", bye)
    recorder.record_accepted("ana", bye.id, "seoul-1", 0, 2, "seoul-a", "seoul")
    recorder.record_gone("bo", s_bo)
    recorder.record_gauge("rss_bytes", 5e7, "seoul-a")
    recorder.record_converged()
    recorder.record_final("seoul-a", "seoul", talk, [re], "d", Vector({("seoul-1", 0): 2}))
    shown = Shown(11, re.id.hex(), bo.hex(), read_body(re), "message")
    recorder.record_final("busan-a", "busan", talk, [shown], "d")
    return recorder


def read_body(event: Event) -> str:
    from evertalk.core.history import body_digest

    return body_digest(event)


def test_what_is_recorded_is_judged_and_certified(tmp_path: Path) -> None:
    recorder = record()
    path = recorder.close(tmp_path / "run")
    assert path.name == HISTORY
    history = read_history(path.parent)
    assert history == recorder.history()
    report = check(history)
    assert (report.verdict, report.reasons[:-1]) == ("held", [])
    assert report.counts["invoked"] == report.counts["accepted"] == 3
    assert report.limits[0].limit == 2000.0, "a silent hang"
    certificate = write_certificate(path.parent, KEY)
    assert certificate["faults"] == [{"verb": "stop", "target": "seoul", "at_s": 3.5, "until_s": 6.5}]
    assert verify(path.parent) == []


def test_recording_the_same_twice_writes_the_same_file(tmp_path: Path) -> None:
    assert record().close(tmp_path / "1").read_bytes() == record().close(tmp_path / "2").read_bytes()


def test_a_certificate_needs_a_whole_history(tmp_path: Path) -> None:
    with pytest.raises(HistoryDamaged, match="there is no"):
        write_certificate(tmp_path, KEY)
