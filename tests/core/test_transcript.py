"""Chat exports come in as what was said: every known form, its traps, and files that are no export."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time
from itertools import groupby
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertalk.core.transcript import Line, Transcript, UnknownTranscript, decode, parse

SAMPLES = Path(__file__).parent / "transcripts"
LRM = "\u200e"
NARROW = "\u202f"


def at(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp)


def spoken(text: str) -> list[tuple[str, str]]:
    return [(line.speaker, line.text) for line in parse(text).lines]


# What the sample files hold. The conversations are invented.
EXPECTED = {
    "kakaotalk-pc-ko": Transcript(
        "kakaotalk-pc-ko",
        "산악회",
        (
            Line("한별", "다들 일어났어요?", at("2023-05-13T07:02")),
            Line(
                "노을 🌄",
                "네! 준비물 다시 정리하면\n1. 물 2병\n2. 김밥 [참치] : 세 줄\n\n3. 바람막이",
                at("2023-05-13T07:03"),
            ),
            Line("[총무] 가람", "사진", at("2023-05-13T07:10")),
            Line("한별", "정상입니다 ㅎㅎ [오후 1:00] 하산 예정", at("2023-05-13T12:00")),
            Line("누리", "늦어서 죄송해요: 버스를 놓쳤어요", at("2023-05-13T12:31")),
            Line("Ben Okafor", "삭제된 메시지입니다.", at("2023-05-14T00:09")),
            Line("노을 🌄", "https://example.org/trail?a=[1]&b=2", at("2023-05-14T09:15")),
        ),
        skipped=6,
    ),
    "kakaotalk-pc-en": Transcript(
        "kakaotalk-pc-en",
        "Book Club",
        (
            Line("Mara", "hello all", at("2023-05-01T15:05")),
            Line(
                "Teo Lind",
                "Chapter list:\n\n[1] Rivers\n[2] [3:07] is a time, not a name",
                at("2023-05-01T15:06"),
            ),
            Line("Mara", "Photo", at("2023-05-01T23:59")),
            Line("Jun: night shift", "thanks for having me", at("2023-05-02T00:01")),
        ),
        skipped=5,
    ),
    "kakaotalk-android-ko": Transcript(
        "kakaotalk-android-ko",
        "가온",
        (
            Line("가온", "안녕하세요 : )", at("2023-05-01T15:05")),
            Line(
                "회원님",
                "일정은 이렇습니다\n2023년 5월 1일 저녁 7시, 회의실 : 예약됨\n\n2023년 5월 3일 마감",
                at("2023-05-01T15:06"),
            ),
            Line("가온: 디자인", "확인했어요", at("2023-05-01T15:07")),
            Line("회원님", "사진 3장", at("2023-05-02T00:00")),
        ),
        skipped=4,
    ),
    "kakaotalk-android-en": Transcript(
        "kakaotalk-android-en",
        "Hana",
        (
            Line("Hana", "almost midnight", at("2024-03-31T23:58")),
            Line("Omar", "countdown:\n3\n2\n1", at("2024-03-31T23:59")),
            Line("you", "April 1, 2024 : no jokes please", at("2024-04-01T00:00")),
            Line("Hana", "Photo", at("2024-04-01T12:01")),
        ),
        skipped=3,
    ),
    "kakaotalk-ios-ko": Transcript(
        "kakaotalk-ios-ko",
        None,
        (
            Line("다온", "안녕", at("2023-05-01T15:05")),
            Line("새벽 ⭐️", "시 한 편\n\n첫째 줄 : 바람\n둘째 줄, 물결", at("2023-05-01T15:06")),
            Line("다온", "이모티콘", at("2023-05-02T09:00")),
        ),
        skipped=3,
    ),
    "kakaotalk-ios-ko-24h": Transcript(
        "kakaotalk-ios-ko",
        "동네 모임 (3명)",
        (
            Line("해솔", "오후 3시 5분이네요", at("2023-05-01T15:05")),
            Line("이든", "자정은 지났죠", at("2023-05-01T00:06")),
        ),
        skipped=2,
    ),
    "kakaotalk-ios-en": Transcript(
        "kakaotalk-ios-en",
        "Garden (3 people)",
        (
            Line("Noor", "Tomatoes : red ones", at("2023-09-01T20:34")),
            Line("You", "two kinds\n\n- plum\n- cherry", at("2023-09-01T20:35")),
            Line("Ilse", "👍", at("2023-09-01T20:36")),
            Line("Bo", "Emoticons", at("2023-09-02T00:00")),
        ),
        skipped=3,
    ),
    "kakaotalk-mac-csv": Transcript(
        "kakaotalk-mac-csv",
        None,
        (
            Line("Sol", 'hello, "both" of you', at("2023-05-01T15:05:26")),
            Line(
                "Kim, Jr.",
                'first line\n\n2023-05-01 15:00:00,"Sol","a row inside a text"\nlast line',
                at("2023-05-01T15:06"),
            ),
            Line("Sol", "bye then", at("2023-05-01T15:08")),
        ),
        skipped=3,
    ),
    "whatsapp-android": Transcript(
        "whatsapp-android",
        None,
        (
            Line("Rosa", "hello: everyone", at("2023-05-13T15:05")),
            Line(
                "+44 7700 900123",
                "bringing\n- bread\n\n- 01/06/2023, 10:00 cheese - the good one: yes",
                at("2023-05-13T15:06"),
            ),
            Line("Tom 🎣 (work)", "<Media omitted>", at("2023-05-13T15:08")),
            Line("Rosa", "IMG-20230513-WA0001.jpg (file attached)\nthe meadow", at("2023-05-13T15:09")),
            Line("Tom 🎣 (work)", "This message was deleted", at("2023-05-14T00:00")),
        ),
        skipped=4,
    ),
    "whatsapp-android-12h": Transcript(
        "whatsapp-android",
        None,
        (
            Line("Alice", "hello", at("2023-05-01T15:05")),
            Line("Bob", "ok\n[5/1/23, 3:05:10 PM] Bob: quoted from another phone", at("2023-05-01T00:10")),
            Line("Alice", "see you", at("2023-05-14T12:10")),
        ),
        skipped=1,
    ),
    "whatsapp-android-ko": Transcript(
        "whatsapp-android",
        None,
        (
            Line("바다", "안녕: 하세요", at("2023-05-01T15:05")),
            Line("Nils", "<미디어 파일 제외됨>", at("2023-05-01T15:06")),
            Line("바다", "공항\n3번 출구", at("2023-05-02T00:06")),
        ),
        skipped=2,
    ),
    "whatsapp-ios": Transcript(
        "whatsapp-ios",
        "Book Swap",
        (
            Line("Wren", "hello [again]: all", at("2023-05-01T15:05:20")),
            Line("~ Ola", "image omitted", at("2023-05-01T15:06")),
            Line(
                "~ Ola",
                f"shelf one\n\nshelf two: full {LRM}<This message was edited>",
                at("2023-05-01T15:06:30"),
            ),
            Line("Wren", "This message was deleted.", at("2023-05-13T09:00")),
        ),
        skipped=5,
    ),
    "whatsapp-ios-ko": Transcript(
        "whatsapp-ios",
        None,
        (
            Line("은하", "안녕하세요", at("2023-05-01T15:05:10")),
            Line("은하", "사진 생략", at("2023-05-01T15:06")),
            Line("Jo", "내일\n봐요", at("2023-05-01T00:07:01")),
        ),
        skipped=1,
    ),
}


def test_every_sample_has_an_expectation() -> None:
    assert {path.stem for path in SAMPLES.glob("*.txt")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_sample(name: str) -> None:
    assert parse(decode((SAMPLES / f"{name}.txt").read_bytes())) == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_sample_with_other_line_ends(name: str, end: str) -> None:
    raw = (SAMPLES / f"{name}.txt").read_bytes().replace(b"\n", end.encode())
    assert parse(decode(raw)) == EXPECTED[name]


# Written back by the test, form by form


def clock12(when: time, am: str, pm: str) -> tuple[str, str]:
    return f"{when.hour % 12 or 12}:{when.minute:02}", pm if when.hour >= 12 else am


def korean(when: time) -> str:
    digits, half = clock12(when, "오전", "오후")
    return f"{half} {digits}"


def english(when: time, space: str = " ") -> str:
    return space.join(clock12(when, "AM", "PM"))


def long_day(day: date) -> str:
    return f"{day:%B} {day.day}, {day.year}"


def short_day(day: date) -> str:
    return f"{day:%b} {day.day}, {day.year}"


def korean_day(day: date) -> str:
    return f"{day.year}년 {day.month}월 {day.day}일"


def dotted_day(day: date) -> str:
    return f"{day.year}. {day.month}. {day.day}."


def at_long(when: datetime) -> str:
    return f"{long_day(when.date())} at {english(when.time(), NARROW)}"


def clock_first(when: datetime) -> str:
    return f"{english(when.time(), '').lower()}, {long_day(when.date())}"


def american(when: datetime) -> str:
    return f"{when.month}/{when.day}/{when:%y}, {english(when.time(), NARROW)}"


def american_seconds(when: datetime) -> str:
    return american(when).replace(NARROW, f":{when:%S}{NARROW}")


def dotted(when: datetime) -> str:
    return f"{dotted_day(when.date())} {korean(when.time())}"


def weekday(day: date) -> str:
    return "월화수목금토일"[day.weekday()] + "요일"


def marked(text: str) -> str:
    """As WhatsApp does before its own texts; before one that begins with the mark, or it would be lost."""
    return LRM + text if text.startswith(LRM) else text


@dataclass(frozen=True)
class Writer:
    """Writes one form: the header, the line before a day's first message, a message, a notice."""

    form: str
    message: Callable[[Line, datetime], str]
    notice: Callable[[datetime], str]
    separator: Callable[[datetime], str | None] = lambda when: None
    header: tuple[str, ...] = ()
    ends_name: str = ": "
    day_is_clear: bool = True


MOBILE_HEADER = ("별밤 님과 카카오톡 대화", "저장한 날짜 : 2023. 5. 1. 오전 1:00", "", "")
WRITERS = {
    "pc-ko": Writer(
        "kakaotalk-pc-ko",
        lambda line, when: f"[{line.speaker}] [{korean(when.time())}] {line.text}",
        lambda when: "먼지님이 들어왔습니다.",
        lambda when: f"\n--------------- {korean_day(when.date())} {weekday(when.date())} ---------------",
        ("별밤 님과 카카오톡 대화", "저장한 날짜 : 2023-05-01 12:34:56"),
        "] [오",
    ),
    "pc-en": Writer(
        "kakaotalk-pc-en",
        lambda line, when: f"[{line.speaker}] [{english(when.time())}] {line.text}",
        lambda when: "Dusty left this chatroom.",
        lambda when: f"--------------- {when:%A}, {long_day(when.date())} ---------------",
        ("KakaoTalk Chats with Stars", "Date Saved : 2023-05-01 12:34:56", ""),
        "] [",
    ),
    "pc-24h": Writer(
        "kakaotalk-pc-24h",
        lambda line, when: f"[{line.speaker}] [{when:%H:%M}] {line.text}",
        lambda when: "먼지님이 나갔습니다.",
        lambda when: f"--------------- {korean_day(when.date())} {weekday(when.date())} ---------------",
        ends_name="] [",
    ),
    "android-ko": Writer(
        "kakaotalk-android-ko",
        lambda line, when: f"{korean_day(when.date())} {korean(when.time())}, {line.speaker} : {line.text}",
        lambda when: f"{korean_day(when.date())} {korean(when.time())}, 먼지님이 들어왔습니다.",
        lambda when: f"\n{korean_day(when.date())} {korean(when.time())}",
        MOBILE_HEADER,
        " :",
    ),
    "android-en": Writer(
        "kakaotalk-android-en",
        lambda line, when: f"{long_day(when.date())} {english(when.time())}, {line.speaker} : {line.text}",
        lambda when: f"{long_day(when.date())} {english(when.time())}, Dusty invited Fog.",
        lambda when: f"\n{long_day(when.date())} {english(when.time())}",
        ("KakaoTalk Chats with Stars", "Date Saved : May 1, 2023, 1:08 PM", "", ""),
        " :",
    ),
    "android-en-at": Writer(
        "kakaotalk-android-en",
        lambda line, when: f"{at_long(when)}, {line.speaker} : {line.text}",
        lambda when: f"{at_long(when)}, Dusty left.",
        lambda when: f"\n{at_long(when)}",
        ends_name=" :",
    ),
    "android-en-2015": Writer(
        "kakaotalk-android-en-2015",
        lambda line, when: f"{clock_first(when)}, {line.speaker} : {line.text}",
        lambda when: f"{clock_first(when)}, Dusty invited Fog.",
        lambda when: f"\n{clock_first(when)}",
        ends_name=" :",
    ),
    "ios-ko": Writer(
        "kakaotalk-ios-ko",
        lambda line, when: f"{dotted_day(when.date())} {korean(when.time())}, {line.speaker} : {line.text}",
        lambda when: f"{dotted_day(when.date())} {korean(when.time())}: 먼지님이 나갔습니다.",
        lambda when: f"\n{korean_day(when.date())} {weekday(when.date())}",
        ("별밤과 카카오톡 대화-1.txt", *MOBILE_HEADER[1:]),
        " :",
    ),
    "ios-ko-24h": Writer(
        "kakaotalk-ios-ko",
        lambda line, when: f"{dotted_day(when.date())} {when:%H:%M}, {line.speaker} : {line.text}",
        lambda when: f"{dotted_day(when.date())} {when:%H:%M}: 먼지님이 나갔습니다.",
        lambda when: f"\n{korean_day(when.date())} {weekday(when.date())}",
        MOBILE_HEADER,
        " :",
    ),
    "ios-en": Writer(
        "kakaotalk-ios-en",
        lambda line, when: f"{short_day(when.date())}, {english(when.time())}, {line.speaker} : {line.text}",
        lambda when: f"{short_day(when.date())}, {english(when.time())}: Dusty invited Fog and Rain.",
        lambda when: f"\n{when:%A}, {long_day(when.date())}",
        ("KakaoTalk Chats with Stars (4 people)-1.txt", "Date Saved : Aug 3, 2023, 12:20 AM", "", ""),
        " :",
    ),
    "mac-csv": Writer(
        "kakaotalk-mac-csv",
        lambda line, when: '{:%Y-%m-%d %H:%M:%S},"{}","{}"'.format(
            when, line.speaker.replace('"', '""'), line.text.replace('"', '""')
        ),
        lambda when: f'{when:%Y-%m-%d %H:%M:%S},"먼지","먼지님이 나갔습니다."',
        header=("Date,User,Message",),
        ends_name="\n",
    ),
    "whatsapp-android": Writer(
        "whatsapp-android",
        lambda line, when: f"{when:%d/%m/%Y, %H:%M} - {line.speaker}: {marked(line.text)}",
        lambda when: f'{when:%d/%m/%Y, %H:%M} - Dusty changed the subject from "a: b" to "c: d"',
        day_is_clear=False,
    ),
    "whatsapp-android-us": Writer(
        "whatsapp-android",
        lambda line, when: f"{american(when)} - {line.speaker}: {marked(line.text)}",
        lambda when: f"{american(when)} - Dusty left",
        day_is_clear=False,
    ),
    "whatsapp-android-am": Writer(
        "whatsapp-android",
        lambda line, when: f"{american(when).lower()} - {line.speaker}: {marked(line.text)}",
        lambda when: f"{american(when).lower()} - You added Fog",
        day_is_clear=False,
    ),
    "whatsapp-android-dots": Writer(
        "whatsapp-android",
        lambda line, when: f"{when:%d.%m.%y, %H:%M} - {line.speaker}: {marked(line.text)}",
        lambda when: f"{when:%d.%m.%y, %H:%M} - Dusty left",
        day_is_clear=False,
    ),
    "whatsapp-android-ko": Writer(
        "whatsapp-android",
        lambda line, when: f"{dotted(when)} - {line.speaker}: {marked(line.text)}",
        lambda when: f"{dotted(when)} - 먼지님이 나갔습니다",
    ),
    "whatsapp-ios": Writer(
        "whatsapp-ios",
        lambda line, when: f"[{when:%d/%m/%Y, %H:%M:%S}] {line.speaker}: {marked(line.text)}",
        lambda when: f"{LRM}[{when:%d/%m/%Y, %H:%M:%S}] Stargazers: {LRM}Dusty created this group",
        day_is_clear=False,
    ),
    "whatsapp-ios-us": Writer(
        "whatsapp-ios",
        lambda line, when: f"{LRM}[{american_seconds(when)}] {line.speaker}: {LRM}{line.text}",
        lambda when: f"[{american_seconds(when)}] Fog: {LRM}Fog changed the group name",
        day_is_clear=False,
    ),
    "whatsapp-ios-ko": Writer(
        "whatsapp-ios",
        lambda line, when: f"[{dotted(when)}:{when:%S}] {line.speaker}: {marked(line.text)}",
        lambda when: f"[{dotted(when)}:00] 별밤: {LRM}먼지님이 나갔습니다",
    ),
}

# Lines that a careless reader takes for the exporter's.
LOOKALIKES = (
    "[별] 오후 3:05 안녕",
    "[별] [오후 3시 5분] 안녕",
    "[별] [99] [오후] 안녕",
    "--------------- 2023년 5월 ---------------",
    "2023년 5월 1일 오후 3:05 홍길동 : 안녕",
    "2023. 5. 1. 오후에, 봐 : 응",
    "May 1, 2023 in the afternoon, Ann : hi",
    "01/05/2023 - Ann: hi",
    "[01/05/2023] Ann: hi",
    "01/05/2023, afternoon - Ann: hi",
    "a: b : c] [d",
    '2023-05-01,"Ann","hi"',
    "Date,User,Message",
    "님이 들어왔습니다",
    "",
    " ",
    "\u2028\x0b\x0c\x85\x1c",
    f"{LRM}{LRM}",
)
anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=20)
text_line = anything | st.sampled_from(LOOKALIKES)
texts = (
    st.lists(text_line, min_size=1, max_size=4)
    .map("\n".join)
    .filter(lambda text: text.strip() and not text.endswith("\n"))
)
names = anything.filter(lambda name: name.strip() and not name.startswith(LRM)) | st.sampled_from(
    (
        "홍 길동",
        "A:lice",
        ":)",
        "👩‍👩‍👧 family",
        "[admin] Jo",
        "+82 10-0000-0000",
        "Kim, Jr.",
        '"Q"',
        "a - b",
        "Ann ]",
    )
)
moments = st.datetimes(at("2001-01-01"), at("2099-12-31")).map(lambda when: when.replace(microsecond=0))


def write(writer: Writer, said: list[Line], noticed: set[int]) -> tuple[list[str], int]:
    """The records of an export, and how many of them nobody said; each may hold line breaks."""
    records = list(writer.header)
    skipped = 0
    for day, lines in groupby(enumerate(said), key=lambda pair: stamp(pair[1]).date()):
        for first, (number, line) in enumerate(lines):
            separator = writer.separator(stamp(line)) if first == 0 else None
            notice = writer.notice(stamp(line)) if number in noticed else None
            if separator:
                assert day == stamp(line).date()
                records += separator.split("\n")
            records += [notice] if notice else []
            records.append(writer.message(line, stamp(line)))
            skipped += bool(separator) + bool(notice)
    return records, skipped


def stamp(line: Line) -> datetime:
    assert line.at
    return line.at


def form_of(writer: Writer, said: list[Line]) -> str:
    """May is May in both English forms of KakaoTalk: then the first of the table names the file."""
    only_may = writer.form == "kakaotalk-ios-en" and all(stamp(line).month == 5 for line in said)
    return "kakaotalk-android-en" if only_may else writer.form


def expected(writer: Writer, said: list[Line]) -> tuple[Line, ...]:
    """What can be known: no seconds where none are written, no day where the file cannot tell the order."""
    unclear = not writer.day_is_clear and all(stamp(line).day <= 12 for line in said)
    with_seconds = writer.form in ("whatsapp-ios", "kakaotalk-mac-csv")
    return tuple(
        Line(
            line.speaker,
            line.text,
            None if unclear else stamp(line) if with_seconds else stamp(line).replace(second=0),
        )
        for line in said
    )


@st.composite
def conversations(draw: st.DrawFn, ends_name: str) -> tuple[list[Line], set[int]]:
    who = names.filter(lambda name: ends_name not in f"{name}{ends_name[:-1]}")
    said = draw(st.lists(st.builds(Line, who, texts, moments), min_size=1, max_size=6))
    # Two on one day, so that not every message has a separator before it.
    said = [line for line in said for _ in range(2)]
    return said, draw(st.sets(st.integers(0, len(said) - 1)))


@pytest.mark.parametrize("name", WRITERS)
@given(data=st.data())
def test_what_was_written_comes_back(name: str, data: st.DataObject) -> None:
    writer = WRITERS[name]
    said, noticed = data.draw(conversations(writer.ends_name))
    records, skipped = write(writer, said, noticed)
    end = data.draw(st.sampled_from(("\n", "\r\n", "\r")))
    text = "\n".join([*records, ""]).replace("\n", end)
    mark = data.draw(st.sampled_from((b"", b"\xef\xbb\xbf")))
    found = parse(decode(mark + text.encode()))
    assert (found.form, found.lines) == (form_of(writer, said), expected(writer, said))
    assert found.skipped == skipped


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "mac-csv"])
@given(data=st.data())
def test_crlf_between_and_lf_inside_settle_every_doubt(name: str, data: st.DataObject) -> None:
    writer = WRITERS[name]
    said, noticed = data.draw(conversations(writer.ends_name))
    # Each message quotes the export itself, which only the line ends can tell from the export.
    said = [
        Line(line.speaker, f"look:\n{writer.message(line, stamp(line))}\nmine again", line.at)
        if number % 2 and "\n" not in line.text
        else Line(line.speaker, f"{line.text}\n님이 나갔습니다.\n\nend\n", line.at)
        for number, line in enumerate(said)
    ]
    records, skipped = write(writer, said, noticed)
    found = parse(decode("\r\n".join([*records, ""]).encode()))
    assert (found.form, found.lines, found.skipped) == (
        form_of(writer, said),
        expected(writer, said),
        skipped,
    )


# One trap each


def test_form_is_of_most_lines_not_of_the_first() -> None:
    found = parse("[01/05/2023, 15:05:10] Al: quoted\n01/05/2023, 15:05 - Al: a\n01/05/2023, 15:06 - Bo: b\n")
    assert (found.form, [line.text for line in found.lines], found.skipped) == (
        "whatsapp-android",
        ["a", "b"],
        1,
    )


def test_day_and_month_are_told_apart_only_by_evidence() -> None:
    line = "{}, 15:05 - Al: a\n"
    assert [said.at for said in parse(line.format("01/05/23") + line.format("02/05/23")).lines] == [
        None,
        None,
    ]
    assert parse(line.format("01/05/23") + line.format("13/05/23")).lines[0].at == at("2023-05-01T15:05")
    assert parse(line.format("01/05/23") + line.format("05/13/23")).lines[0].at == at("2023-01-05T15:05")
    assert [said.at for said in parse(line.format("13/05/23") + line.format("05/13/23")).lines] == [
        None,
        None,
    ]
    assert parse(line.format("2023-02-01")).lines[0].at == at("2023-02-01T15:05")


def test_two_digit_year_comes_first_where_the_half_of_the_day_does() -> None:
    assert parse("24/8/21 PM 1:28 - Al: a\n").lines[0].at == at("2024-08-21T13:28")
    assert parse("24. 8. 21. 13:28 - Al: a\n").lines[0].at == at("2024-08-21T13:28")


def test_a_moment_that_never_was_is_none() -> None:
    assert [said.at for said in parse("31/02/2023, 15:05 - Al: a\n13/05/2023, 29:05 - Al: b\n").lines] == [
        None,
        None,
    ]


def test_blank_lines_inside_are_kept_and_at_the_end_are_not() -> None:
    assert spoken("13/05/2023, 15:05 - Al: a\n\n\nb\n\n13/05/2023, 15:06 - Bo: c\n\n\n") == [
        ("Al", "a\n\n\nb\n"),
        ("Bo", "c"),
    ]


def test_text_may_begin_on_the_second_line() -> None:
    assert spoken("[Al] [3:05 PM]\na\n[Bo] [3:06 PM] \nb") == [("Al", "\na"), ("Bo", "\nb")]


def test_message_without_text_is_skipped() -> None:
    found = parse("13/05/2023, 15:05 - Al: a\n13/05/2023, 15:05 - Al: \n13/05/2023, 15:05 - Al:\n")
    assert ([line.text for line in found.lines], found.skipped) == (["a"], 2)


def test_spaces_around_a_text_are_kept() -> None:
    assert spoken("2023. 5. 1. 오후 3:05, 별 :   a : b  \n") == [("별", "  a : b  ")]


def test_only_the_first_direction_mark_is_the_exporters() -> None:
    assert spoken(f"[13/05/2023, 15:05:10] Al: {LRM}{LRM}a{LRM}\n") == [("Al", f"{LRM}a{LRM}")]


def test_lines_after_a_notice_belong_to_nobody() -> None:
    found = parse("13/05/2023, 15:05 - Al: a\n13/05/2023, 15:06 - Bo changed the rules\nto these\n")
    assert ([line.text for line in found.lines], found.skipped) == (["a"], 2)


def test_a_cut_export_begins_inside_a_message() -> None:
    found = parse("the rest of it\n13/05/2023, 15:05 - Al: a\n")
    assert ([line.text for line in found.lines], found.skipped) == (["a"], 1)


def test_a_person_who_only_sent_pictures_is_no_group() -> None:
    text = (
        f"[13/05/2023, 15:05:10] Al: {LRM}Your security code with Al changed.\n"
        f"{LRM}[13/05/2023, 15:05:11] Al: {LRM}image omitted\n"
    )
    assert spoken(text) == [("Al", "image omitted")]


def test_what_people_type_is_no_notice() -> None:
    text = "[13/05/2023, 15:05:10] Al: Bo left\n[13/05/2023, 15:05:11] Al: I added you\n"
    assert [line.text for line in parse(text).lines] == ["Bo left", "I added you"]


def test_file_mended_in_an_editor_keeps_its_continued_lines() -> None:
    text = "[Al] [3:05 PM] a\r\nsecond\r\nthird\r\n[Bo] [3:06 PM] b\nfourth\r\n"
    assert spoken(text) == [("Al", "a\nsecond\nthird"), ("Bo", "b\nfourth")]


def test_unknown_notice_of_a_pc_is_known_by_line_ends() -> None:
    text = "[Al] [3:05 PM] a\nsecond\nthird\r\nThe host did something new\r\n[Bo] [3:06 PM] b\r\n"
    found = parse(text)
    assert ([line.text for line in found.lines], found.skipped) == (["a\nsecond\nthird", "b"], 1)


# Bytes


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp949"])
def test_encodings(encoding: str) -> None:
    text = "--------------- 2023년 5월 1일 월요일 ---------------\n[홍길동] [오후 3:05] 안녕\n"
    assert decode(text.encode(encoding)) == text
    assert decode(text.replace("\n", "\r\n").encode(encoding)) == text
    assert decode(text.replace("\n", "\r").encode(encoding)) == text


def test_utf_16_of_the_other_order() -> None:
    assert decode(b"\xfe\xff" + "안녕\n".encode("utf-16-be")) == "안녕\n"


def test_crlf_stays_where_bare_line_ends_mean_something_else() -> None:
    assert decode(b"a\nb\r\nc\rd\r\n") == "a\nb\r\nc\nd\r\n"


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"PK\x03\x04rest", "unpack it"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not text"),
        (b"\xff\xfe\x00", "not text"),
        (b"\xef\xbb\xbfabc\xff\xff", "not text"),
        (b"a\0b", "not text"),
        ("안녕".encode()[:-1], "middle of a letter"),
    ],
)
def test_undecodable(raw: bytes, told: str) -> None:
    with pytest.raises(UnknownTranscript, match=told):
        decode(raw)


# No export, or an empty one


def test_unknown_form_names_what_was_tried_and_what_was_seen() -> None:
    with pytest.raises(UnknownTranscript) as caught:
        parse("\n  Dear diary,\x07 " + "nothing happened, " * 20 + "\nand again nothing\n")
    sentence = str(caught.value)
    assert "“Dear diary,? nothing happened" in sentence
    assert "kakaotalk-pc-ko" in sentence
    assert "whatsapp-ios" in sentence
    assert "\n" not in sentence
    assert len(sentence) < 500
    assert re.fullmatch(r"This [^\n]*\.", sentence)


@pytest.mark.parametrize("text", ["", "\n \n", "\ufeff"])
def test_nothing_at_all(text: str) -> None:
    with pytest.raises(UnknownTranscript, match="empty"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("별 님과 카카오톡 대화\n저장한 날짜 : 2023-05-01 12:34:56\n", "KakaoTalk"),
        ("--------------- 2023년 5월 1일 월요일 ---------------\n별님이 들어왔습니다.\n", "kakaotalk-pc-ko"),
        ("2023년 5월 1일 오후 3:05, 별님이 들어왔습니다.\n", "kakaotalk-android-ko"),
        ("Date,User,Message\n", "kakaotalk-mac-csv"),
        ("01/05/2023, 15:05 - Al joined using this group's invite link\n", "whatsapp-android"),
        (f"[01/05/2023, 15:05:10] Al: {LRM}Messages and calls are end-to-end encrypted.\n", "whatsapp-ios"),
    ],
)
def test_known_form_without_a_message(text: str, form: str) -> None:
    with pytest.raises(UnknownTranscript, match=f"{form} export but holds no message"):
        parse(text)


def test_csv_that_csv_cannot_read() -> None:
    with pytest.raises(UnknownTranscript, match="not proper CSV"):
        parse('Date,User,Message\n2023-05-01 15:05:10,"Al","' + "a" * 200_000 + '"\n')


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"[13/05/2023, 15:05:10] Al: {LRM}line {n}" for n in range(100_000)),
        "[Al] [3:05 PM] a\n" + "[b] [" * 400_000,
        "13/05/2023, 15:05 - Al: a\n" + "\n" * 400_000 + "b",
        "[Al] [3:05 PM] a\n" + "님이 님을 " * 400_000,
        f"[13/05/2023, 15:05:10] Al: {LRM}" + "created " * 400_000,
        "[Al] [3:05 PM] a\n" + "- " * 400_000 + "-" * 400_000,
    ],
    ids=["lines", "brackets", "blanks", "notices", "marks", "dashes"],
)
def test_time_is_linear(text: str) -> None:
    quarter, whole = _cpu_s(text[: len(text) // 4]), _cpu_s(text)
    assert whole < 9 * quarter  # what is quadratic takes 16 times as long


def _cpu_s(text: str) -> float:
    began = process_time()
    parse(text)
    return process_time() - began
