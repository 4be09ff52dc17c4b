"""Reads a chat export as people have it on their phones into the messages a drill can play."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from datetime import date, datetime, time


@dataclass(frozen=True, slots=True)
class Line:
    """One message: who said it, what exactly, and when (local time, None where the file does not tell)."""

    speaker: str
    text: str
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Transcript:
    """A conversation: the form it was exported in, its title if it names one, and its messages in order.

    `skipped` counts what the exporter wrote and nobody said: lines (rows, in a CSV) that are date
    separators, joins and other notices, and messages without any text. The file's own header is not counted.
    """

    form: str
    title: str | None
    lines: tuple[Line, ...]
    skipped: int


class UnknownTranscript(ValueError):
    """The file is no chat export known here; the text is one sentence for the person who gave it."""


@dataclass(frozen=True, slots=True)
class _Form:
    """One row of the table: how this exporter opens a message, and how it stamps its other lines."""

    name: str
    message: re.Pattern[str]
    stamped: re.Pattern[str]
    notice: re.Pattern[str] | None = None  # a notice that carries no stamp, where there are such


# Phones write U+202F or U+00A0 before AM/PM, older ones a plain space.
_SP = "[ \u00a0\u2009\u202f]"
_AP = f"오전|오후|[AaPp]\\.?{_SP}?[Mm]\\.?"
_TIME = r"(?P<hh>\d{1,2})[:.](?P<mm>\d\d)(?:[:.](?P<ss>\d\d))?"
_CLOCK = f"(?:(?P<ap>{_AP}){_SP}?)?{_TIME}(?:{_SP}?(?P<ap2>{_AP}))?"

_SHORT = "Jan|Feb|Mar|Apr|May|June?|July?|Aug|Sept?|Oct|Nov|Dec"
_LONG = "January|February|March|April|May|June|July|August|September|October|November|December"
_KO_DAY = r"\d{4}년 \d{1,2}월 \d{1,2}일"
_DOT_DAY = r"\d{4}\. ?\d{1,2}\. ?\d{1,2}\.?"
_LONG_DAY = rf"(?:(?:{_LONG}) \d{{1,2}}, \d{{4}}|\d{{1,2}} (?:{_LONG}),? \d{{4}})"
_SHORT_DAY = rf"(?:(?:{_SHORT})\.? \d{{1,2}}, \d{{4}}|\d{{1,2}} (?:{_SHORT})\.?,? \d{{4}})"
_NUM_DAY = r"\d{1,4}[/.-] ?\d{1,2}[/.-] ?\d{1,4}\.?"
_WEEKDAY = "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"

_KAKAO_NOTICE = re.compile(
    r"(?:.{1,200}님이 (?:들어왔|나갔|부방장이 되었|부방장에서 해제되었)습니다"
    r"|.{1,200}님을 (?:내보냈|초대했|초대하였)습니다"
    r"|.{1,200} (?:joined|left|has been removed from) this chatroom"
    r"|(?:채팅방 관리자|방장|.{1,60}님)[이가] (?:\d+개의 )?메시지를 가렸습니다|메시지가 삭제되었습니다"
    r"|운영정책을 위반한 메시지로 .{1,60} 수 있습니다)\.$"
)
_CSV_HEADER = "Date,User,Message"
_CSV_ROW = rf'"?(?P<date>\d{{4}}-\d\d-\d\d) {_TIME}"?,'


def _kakao_pc(name: str, clock: str) -> _Form:
    message = rf"\[(?P<who>.+?)\] \[{clock}\](?: (?P<text>.*))?$"
    day = rf"-{{5,}} ?(?:{_WEEKDAY}, )?(?P<date>{_LONG_DAY}|{_KO_DAY})(?: \w요일)? ?-{{5,}}$"
    return _Form(name, re.compile(message), re.compile(day), _KAKAO_NOTICE)


def _kakao_mobile(name: str, stamp: str) -> _Form:
    day_alone = rf"{_KO_DAY} \w요일$|{_DOT_DAY} \w요일$|{_WEEKDAY}, {_LONG_DAY}$"
    message = f"{stamp}, (?P<who>.+?) :(?: (?P<text>.*))?$"
    return _Form(name, re.compile(message), re.compile(f"{stamp}(?:$|, |: )|{day_alone}"))


def _whatsapp(name: str, stamp: str) -> _Form:
    # The exporter puts a direction mark before some lines, and one before every text of its own making.
    stamp = f"[\u200e\u200f]*{stamp} "
    message = f"{stamp}\u200e?(?P<who>.+?):(?: (?P<mark>\u200e?)(?P<text>.*))?$"
    return _Form(name, re.compile(message), re.compile(stamp))


# Ordered: where two rows explain a file equally well (a conversation all in May), the first one names it.
_FORMS = (
    _kakao_pc("kakaotalk-pc-ko", f"(?P<ap>오전|오후) {_TIME}"),
    _kakao_pc("kakaotalk-pc-en", f"{_TIME}{_SP}(?P<ap2>{_AP})"),
    _kakao_pc("kakaotalk-pc-24h", _TIME),
    _kakao_mobile("kakaotalk-android-ko", f"(?P<date>{_KO_DAY}) {_CLOCK}"),
    _kakao_mobile("kakaotalk-android-en", f"(?P<date>{_LONG_DAY})(?:,| at)? {_CLOCK}"),
    _kakao_mobile("kakaotalk-android-en-2015", f"{_CLOCK}, (?P<date>{_LONG_DAY})"),
    _kakao_mobile("kakaotalk-ios-ko", f"(?P<date>{_DOT_DAY}) {_CLOCK}"),
    _kakao_mobile("kakaotalk-ios-en", f"(?P<date>{_SHORT_DAY})(?:,| at)? {_CLOCK}"),
    _Form("kakaotalk-mac-csv", re.compile(_CSV_ROW), re.compile(_CSV_HEADER + "$"), _KAKAO_NOTICE),
    _whatsapp("whatsapp-android", f"(?P<date>{_NUM_DAY}),?{_SP}{_CLOCK}{_SP}[-–]"),
    _whatsapp("whatsapp-ios", rf"\[(?P<date>{_NUM_DAY}),?{_SP}{_CLOCK}\]"),
)

_TITLE = re.compile(
    r"(?:KakaoTalk Chats with (.+?)|(.+?) with KakaoTalk Chats|(.+?)(?: ?님과의?|[과와]) 카카오톡 대화)"
    r"(?:-\d+)?(?:\.txt)?"
)
_HEADER = re.compile(r"(?:저장한 날짜|Date Saved|Saved Date) ?:|Talk_.*\.txt$")

# WhatsApp notices that would pass for messages: a quoted name with ": " in it, or words that the exporter
# (iPhone) puts, marked, into the mouth of the group or of the other person.
_NOTICE_WHO = re.compile('changed the (?:subject|group name) (?:from|to) ["“]|created group ["“]|님이 ["“]')
_NOTICE_ANY = re.compile(
    r"Messages and calls are end-to-end encrypted|메시지와 통화는 종단 ?간 암호화"
    r"|Messages to this (?:chat|group)\b.{0,20} now secured with end-to-end encryption"
)
_NOTICE_MARKED = re.compile(
    r".*?(?:created (?:this |the )?group|\badded | (?:was|were) added$| left$|joined (?:using|from) "
    r"|\bremoved |changed (?:the|this|their|to|your) |security code|now an admin|disappearing messages"
    r"|pinned a message|그룹을 만들|보안 코드|(?:추가했|추가되었|나갔|참여했|변경했)습니다)"
)
_PLACEHOLDER = re.compile(".*(?:omitted|attached|deleted|생략|첨부|삭제)")


def decode(raw: bytes) -> str:
    """Turns the bytes of an export into text with "\\n" at line ends.

    UTF-8 and UTF-16 are known by their mark, UTF-8 also without one; what is neither is read as CP949
    (older KakaoTalk for PC). One thing is kept: where a file has both CRLF and bare LF, CRLF stays, because
    exporters that mix them end a message with CRLF and break lines inside it with LF, and `parse` uses that.

    Args:
        raw: The whole file.

    Returns:
        The text, without a byte order mark.

    Raises:
        UnknownTranscript: The bytes are no text in any of these encodings.
    """
    if raw.startswith(b"PK\x03\x04"):
        raise UnknownTranscript("The file is a zip archive: unpack it and give the .txt or .csv file inside.")
    marks = {b"\xff\xfe": ("utf-16",), b"\xfe\xff": ("utf-16",), b"\xef\xbb": ("utf-8-sig",)}
    text = "\0"
    for encoding in marks.get(raw[:2], ("utf-8", "cp949")):
        try:
            text = raw.decode(encoding)
            break
        except UnicodeDecodeError as error:
            if encoding.startswith("utf-8") and error.reason == "unexpected end of data":
                raise UnknownTranscript("The file ends in the middle of a letter: copy it again.") from None
    if "\0" in text:
        raise UnknownTranscript("The file is not text in UTF-8, UTF-16 or CP949: export the chat as text.")
    records = [record.replace("\r", "\n") for record in text.split("\r\n")]
    mixed = len(records) > 1 and any("\n" in record for record in records)
    return ("\r\n" if mixed else "\n").join(records)


def parse(text: str) -> Transcript:
    """Reads the text of a chat export, whichever known form it has.

    The form is the one that explains most lines. A line that opens no message belongs to the message before
    it, unless the exporter wrote it itself. Texts come back exactly, apart from line ends and the direction
    mark WhatsApp puts in front; blank lines before a separator, a notice or the end of the file are the
    exporter's. A speaker's name ends at the first colon that can end it. Where 01/05 can be read both ways
    and no date of the file decides, `at` is None.

    Args:
        text: The export, as `decode` gives it.

    Returns:
        The conversation.

    Raises:
        UnknownTranscript: No form explains any line, or the form is clear and the file holds no message.

    The forms are those of exports and parsers people have published: whatstk and whatsapp-chat-parser for
    WhatsApp, kakaoship and kakaotalk_msg_preprocessor for KakaoTalk.
    """
    lines, inner = _split(text.removeprefix("\ufeff"))
    form = _choose(lines)
    is_csv = form.name == "kakaotalk-mac-csv"
    transcript = _read_csv(form, lines) if is_csv else _read_lines(form, lines, inner)
    if not transcript.lines:
        raise _without_messages(form.name)
    return transcript


def _split(text: str) -> tuple[list[str], list[bool]]:
    """The lines, and of each whether a bare LF in a text that also has CRLF comes before it."""
    lines: list[str] = []
    inner: list[bool] = []
    crlf = "\r\n" in text
    for record in text.split("\r\n"):
        parts = record.replace("\r", "\n").split("\n")
        lines += parts
        inner += [False] + [crlf] * (len(parts) - 1)
    return lines, inner


def _choose(lines: list[str]) -> _Form:
    counts = [sum(map(bool, map(form.message.match, lines))) for form in _FORMS]
    most = max(counts)
    tied = [form for form, count in zip(_FORMS, counts, strict=True) if count == most]
    stamps = [sum(map(bool, map(form.stamped.match, lines))) if len(tied) > 1 else 0 for form in tied]
    best = tied[stamps.index(max(stamps))]
    if most == 0:
        if max(stamps) or any(_HEADER.match(line) for line in lines[:9]):
            raise _without_messages(best.name if max(stamps) else "KakaoTalk")
        raise _unknown(lines)
    return best


def _unknown(lines: list[str]) -> UnknownTranscript:
    first = next((line.strip() for line in lines if line.strip()), "")
    if not first:
        return UnknownTranscript("The file is empty: export the chat again as text and give that file.")
    seen = "".join(c if c.isprintable() else "?" for c in first[:60]) + ("…" if len(first) > 60 else "")
    tried = ", ".join(form.name for form in _FORMS)
    return UnknownTranscript(
        f"This is no chat export known here: its first line is “{seen}” and no line opens a message in any"
        f" form tried ({tried}), so export the chat again from KakaoTalk or WhatsApp as text."
    )


def _without_messages(form: str) -> UnknownTranscript:
    return UnknownTranscript(
        f"This looks like a {form} export but holds no message, only the exporter's own lines:"
        " export a chat in which something was said."
    )


@dataclass(frozen=True, slots=True)
class _Said:
    """A message as it stands in the file; its text still grows while its lines come in."""

    speaker: str
    text: list[str]
    stamp: dict[str, str | None]


def _read_lines(form: _Form, lines: list[str], inner: list[bool]) -> Transcript:
    title, start = _header(form, lines)
    lines, inner = lines[start:], inner[start:]
    opens = [form.message.match(line) for line in lines]
    speakers = {match["who"] for match in opens if match}
    rooms = _rooms([match for match in opens if match]) if "mark" in form.message.groupindex else set()
    marked = _marks_inner_lines(form, lines, inner, speakers)
    said: list[_Said] = []
    message: _Said | None = None  # also None inside a notice, whose further lines nobody said either
    day: str | None = None
    skipped = 0
    for line, inside, match in zip(lines, inner, opens, strict=True):
        own = marked and inside
        if match and not own and not _is_notice(match, rooms):
            message = _Said(match["who"], [match["text"] or ""], {"date": day, **match.groupdict()})
            said.append(message)
            continue
        stamped = None if own else form.stamped.match(line)
        if not own and line and (match or stamped or marked or _is_unstamped_notice(form, line, speakers)):
            day = (stamped and stamped.groupdict().get("date")) or day
            _close(message, marked)
            message = None
            skipped += 1
        elif message and (line or own or not marked):
            message.text.append(line)
        elif line:
            skipped += 1
    _close(message, marked)
    return _transcript(form, title or min(rooms, default=None), said, skipped)


def _header(form: _Form, lines: list[str]) -> tuple[str | None, int]:
    """The title, and where the exporter's header ends."""
    title = None
    for at, line in enumerate(lines):
        found = None if form.message.match(line) else _TITLE.fullmatch(line)
        if found:
            title = title or next(group for group in found.groups() if group)
        elif line and not _HEADER.match(line):
            return title, at
    return title, len(lines)


def _marks_inner_lines(form: _Form, lines: list[str], inner: list[bool], speakers: set[str]) -> bool:
    """Whether CRLF ends a message and a bare LF breaks a line inside one: if most lines say so.

    Then a line after a bare LF is text whatever it looks like, and one after CRLF is the exporter's own. A
    file mended in an editor also mixes line ends, but leaves most continued lines after CRLF.
    """
    if not any(inner):
        return False
    opened, loose = [0, 0], [0, 0]
    for line, inside in zip(lines, inner, strict=True):
        if form.message.match(line):
            opened[inside] += 1
        elif line and not form.stamped.match(line) and not _is_unstamped_notice(form, line, speakers):
            loose[inside] += 1
    return opened[True] < opened[False] and opened[True] + loose[True] > loose[False]


def _rooms(matches: list[re.Match[str]]) -> set[str]:
    """Names of the group itself, which an iPhone lets say its notices: those with marked lines only."""
    texts = [(match["who"], match["mark"], match["text"] or "") for match in matches]
    noted = {who for who, mark, text in texts if mark and _NOTICE_MARKED.match(text)}
    return noted - {who for who, mark, text in texts if not mark or _PLACEHOLDER.match(text)}


def _is_notice(match: re.Match[str], rooms: set[str]) -> bool:
    """Whether what looks like a WhatsApp message is a notice; KakaoTalk's notices never look like one."""
    if "mark" not in match.re.groupindex:
        return False
    who, text = match["who"], match["text"] or ""
    marked = match["mark"] and _NOTICE_MARKED.match(text) and not _PLACEHOLDER.match(text)
    return bool(marked or _NOTICE_ANY.match(text) or _NOTICE_WHO.search(who) or who in rooms)


def _is_unstamped_notice(form: _Form, line: str, speakers: set[str]) -> bool:
    inviter, invited, _ = line.partition(" invited ")
    named = invited and inviter in speakers and line.endswith(".")
    return bool(form.notice and (named or form.notice.match(line)))


def _close(message: _Said | None, marked: bool) -> None:
    """Takes back the blank lines an exporter puts before its own lines, unless they are marked as text."""
    while message and not marked and len(message.text) > 1 and not message.text[-1]:
        message.text.pop()


def _read_csv(form: _Form, lines: list[str]) -> Transcript:
    said: list[_Said] = []
    skipped = 0
    try:
        for row in csv.reader(line + "\n" for line in lines):
            if not row or row == _CSV_HEADER.split(","):
                continue
            stamp, speaker, text = form.message.match(row[0] + ","), "".join(row[1:2]), ",".join(row[2:])
            notice = text.startswith(speaker) and _is_unstamped_notice(form, text, {speaker})
            if stamp and speaker and not notice:
                said.append(_Said(speaker, [text], stamp.groupdict()))
            else:
                skipped += 1
    except csv.Error as error:
        raise UnknownTranscript(
            f"This looks like a {form.name} export but is not proper CSV ({error}): export the chat again."
        ) from None
    return _transcript(form, None, said, skipped)


def _transcript(form: _Form, title: str | None, said: list[_Said], skipped: int) -> Transcript:
    days = _days([one.stamp for one in said])
    lines = [Line(one.speaker, "\n".join(one.text), _at(one.stamp, days)) for one in said]
    spoken = tuple(line for line in lines if line.text.strip())
    return Transcript(form.name, title, spoken, skipped + len(lines) - len(spoken))


def _at(stamp: dict[str, str | None], days: dict[str, date | None]) -> datetime | None:
    day = days.get(stamp["date"] or "")
    hour = int(stamp["hh"] or 0)
    half = stamp.get("ap") or stamp.get("ap2")
    if half and hour <= 12:
        hour = hour % 12 + (12 if half == "오후" or half[0] in "Pp" else 0)
    try:
        clock = time(hour, int(stamp["mm"] or 0), int(stamp["ss"] or 0))
    except ValueError:
        return None
    return datetime.combine(day, clock) if day else None


def _days(stamps: list[dict[str, str | None]]) -> dict[str, date | None]:
    """Each date of the file, read in the one order that suits all of them."""
    numbers = {text: re.findall(r"\d+", text) for text in {stamp["date"] for stamp in stamps} if text}
    numeric = [parts for parts in numbers.values() if len(parts) == 3]
    # Where AM/PM comes before the time, or a space after the dots, even a two-digit year comes first.
    year_first = any(stamp.get("ap") for stamp in stamps) or any(". " in text for text in numbers)
    day_first = all(int(parts[1]) <= 12 for parts in numeric)
    month_first = all(int(parts[0]) <= 12 for parts in numeric)
    order: tuple[int, int, int] | None = None
    if all(len(parts[0]) == 4 or (year_first and len(parts[2]) < 3) for parts in numeric):
        order = (0, 1, 2)
    elif day_first != month_first:
        order = (2, 1, 0) if day_first else (2, 0, 1)
    return {text: _day(text, parts, order) for text, parts in numbers.items()}


def _day(text: str, parts: list[str], order: tuple[int, int, int] | None) -> date | None:
    word = re.search("[A-Za-z]{3}", text)
    if word:
        day, year = sorted(parts, key=len)
        month = "JanFebMarAprMayJunJulAugSepOctNovDec".index(word[0]) // 3 + 1
    elif order:
        year, month, day = parts[order[0]], int(parts[order[1]]), parts[order[2]]
    else:
        return None
    try:
        return date(int(year) + (2000 if len(year) < 3 else 0), month, int(day))
    except ValueError:
        return None
