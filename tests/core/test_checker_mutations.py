"""Good histories, spoiled in one place: the checker must notice each, but for the spoilings that mean nothing.

Neutral, and the only ones left out here, are:

- to every final read alike: dropping a message that nothing promised (never acknowledged, or somebody may have
  deleted it), and swapping two neighbours of which neither author had sent, received, read or answered the other;
- doubling a whole final read, unchanged: one more look at the same replica;
- dropping the invocation of an event that nothing else in the history names;
- dropping an answer, a reception, a watermark, a connection: it only takes evidence away (what it changes is the
  figures; the certificate's hash sees it).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from evertalk.core.checker import Report, check
from evertalk.core.history import Final, History, Invoke, Read, Received, Record, Shown, Told
from tests.core.stories import simulate

SEEDS = range(12)
Change = Callable[[Final, random.Random], Final | None]


def spoiled(history: History, at: int, *records: Record) -> Report:
    """The report on a history whose record `at` is replaced by these."""
    return check(History(history.header, [*history.records[:at], *records, *history.records[at + 1 :]]))


def picks(history: History, kind: type, chance: random.Random, number: int) -> list[int]:
    """Indices of some records of a kind."""
    of_kind = [i for i, r in enumerate(history.records) if isinstance(r, kind)]
    return chance.sample(of_kind, min(number, len(of_kind)))


# ---------------------------------------------------------------- one final read


def drop(final: Final, chance: random.Random) -> Final:
    at = chance.randrange(len(final.messages))
    return final._replace(messages=final.messages[:at] + final.messages[at + 1 :])


def double(final: Final, chance: random.Random) -> Final:
    at, to = chance.randrange(len(final.messages)), chance.randrange(len(final.messages) + 1)
    return final._replace(messages=(*final.messages[:to], final.messages[at], *final.messages[to:]))


def swap(final: Final, chance: random.Random) -> Final:
    one, other = sorted(chance.sample(range(len(final.messages)), 2))
    messages = list(final.messages)
    messages[one], messages[other] = messages[other], messages[one]
    return final._replace(messages=tuple(messages))


def alter(final: Final, chance: random.Random) -> Final:
    at = chance.randrange(len(final.messages))
    message = altered(final.messages[at], chance.choice(Shown._fields))
    return final._replace(messages=(*final.messages[:at], message, *final.messages[at + 1 :]))


def altered(message: Shown, field: str) -> Shown:
    value: Any = getattr(message, field)
    changed: Any = value + 1 if isinstance(value, int) else value + "0"
    return message._replace(**{field: changed})


def digest(final: Final, chance: random.Random) -> Final:
    return final._replace(digest=final.digest[1:])


@pytest.mark.parametrize("change", [drop, double, swap, alter, digest])
@pytest.mark.parametrize("seed", SEEDS)
def test_any_change_of_one_final_read_is_noticed(seed: int, change: Change) -> None:
    history, chance = simulate(seed), random.Random(seed)
    for at in picks(history, Final, chance, 4):
        final = history.records[at]
        assert isinstance(final, Final)
        changed = change(final, chance)
        assert changed is not None
        report = spoiled(history, at, changed)
        assert report.verdict == "broken", f"seed {seed}: {change.__name__} in record {at}"
        assert at + 2 in {line for v in report.found for line in v.lines} or report.violations["lost"]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_final_read_left_out_is_noticed(seed: int) -> None:
    history = simulate(seed)
    for at in picks(history, Final, random.Random(seed), 4):
        assert spoiled(history, at).verdict == "broken"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_final_read_of_yesterday_is_noticed(seed: int) -> None:
    history = simulate(seed)
    at = picks(history, Final, random.Random(seed), 1)[0]
    final = history.records[at]
    assert isinstance(final, Final)
    assert spoiled(history, at, final._replace(messages=final.messages[:-1])).verdict == "broken"


# ---------------------------------------------------------------- all final reads alike


def everywhere(history: History, change: Callable[[Final], Final]) -> Report:
    """The report if every replica had the same fault."""
    records = [change(r) if isinstance(r, Final) else r for r in history.records]
    return check(History(history.header, records))


def final_of(history: History, conversation: str) -> tuple[str, ...]:
    finals = (r for r in history.records if isinstance(r, Final) and r.conversation == conversation)
    return tuple(m.id for m in next(finals).messages)


def promised(history: History) -> set[str]:
    """Acknowledged messages that nobody may have deleted, found the slow way."""
    told: dict[str, set[str]] = {}
    for r in history.records:
        if isinstance(r, Told):
            told.setdefault(r.id, set()).add(r.outcome)
    deleted = {
        r.target[1]
        for r in history.records
        if isinstance(r, Invoke) and r.op == "delete" and r.target and told.get(r.id, set()) != {"failed"}
    }
    return {id_ for id_, outcomes in told.items() if outcomes & {"accepted", "replicated"}} - deleted


def knew(history: History, later: str, earlier: str) -> bool:
    """True if the author of `later` had sent, received, read or answered `earlier`, found the slow way."""
    own = next(r for r in history.records if isinstance(r, Invoke) and r.id == later)
    for r in history.records:
        if r is own:
            return own.reply_to is not None and own.reply_to[1] == earlier
        if isinstance(r, Invoke | Received) and r.session == own.session and r.id == earlier:
            return True
        if isinstance(r, Read) and r.session == own.session and earlier in r.ids:
            return True
    raise AssertionError(later)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_promised_and_is_nowhere_is_lost(seed: int) -> None:
    history = simulate(seed)
    owed = promised(history)
    for conversation in ("c0", "c1"):
        for id_ in final_of(history, conversation)[::5]:
            report = everywhere(
                history,
                lambda f: f._replace(messages=tuple(m for m in f.messages if m.id != id_)),  # noqa: B023
            )
            assert (report.violations["lost"] == 1) == (id_ in owed), id_
            assert report.verdict == ("broken" if id_ in owed else "held")


@pytest.mark.parametrize("seed", SEEDS)
def test_neighbours_swapped_everywhere_are_noticed_if_one_knew_the_other(seed: int) -> None:
    history = simulate(seed)
    noticed = 0
    for conversation in ("c0", "c1"):
        ids = final_of(history, conversation)
        for one, other in list(pairwise(ids))[::4]:

            def change(final: Final, one: str = one, other: str = other) -> Final:
                turn = {one: other, other: one}
                by_id = {m.id: m for m in final.messages}
                return final._replace(messages=tuple(by_id[turn.get(m.id, m.id)] for m in final.messages))

            related = knew(history, other, one)
            noticed += related
            assert (everywhere(history, change).verdict == "broken") == related, (one, other)
    assert noticed


@pytest.mark.parametrize("seed", SEEDS)
def test_doubled_or_altered_everywhere_is_noticed(seed: int) -> None:
    history, chance = simulate(seed), random.Random(seed)
    id_ = chance.choice(final_of(history, "c0"))
    changes: list[Callable[[Shown], tuple[Shown, ...]]] = [lambda m: (m, m)]
    changes += [lambda m, field=field: (altered(m, field),) for field in Shown._fields]  # type: ignore[misc]
    for change in changes:

        def whole(final: Final, change: Callable[[Shown], tuple[Shown, ...]] = change) -> Final:
            messages = [n for m in final.messages for n in (change(m) if m.id == id_ else (m,))]
            return final._replace(messages=tuple(messages))

        assert everywhere(history, whole).verdict == "broken"


@pytest.mark.parametrize("seed", SEEDS)
def test_deleted_messages_that_are_back_everywhere_are_noticed(seed: int) -> None:
    history = simulate(seed)
    told = {r.id for r in history.records if isinstance(r, Told) and r.outcome == "accepted"}
    said = {r.id: r for r in history.records if isinstance(r, Invoke)}
    for deletion in said.values():
        if deletion.op != "delete" or deletion.id not in told or deletion.target is None:
            continue
        back = said[deletion.target[1]]
        shown = Shown(back.hlc, back.id, back.sender, back.body, back.op)

        def change(final: Final, back: Invoke = back, shown: Shown = shown) -> Final:
            if final.conversation != back.conversation:
                return final
            return final._replace(messages=tuple(sorted({*final.messages, shown})))

        report = everywhere(history, change)
        assert report.violations["resurrected"] == 2, "once for each replica"
        assert {v.kind for v in report.found} == {"resurrected"}


# ---------------------------------------------------------------- other lines


def named(history: History, id_: str, besides: int) -> bool:
    """True if something a client saw or was told names the event."""
    return any(
        (isinstance(r, Told | Received) and r.id == id_)
        or (isinstance(r, Read) and id_ in r.ids)
        or (isinstance(r, Final) and any(m.id == id_ for m in r.messages))
        for i, r in enumerate(history.records)
        if i != besides
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_spoiled_invocations_are_noticed(seed: int) -> None:
    history, chance = simulate(seed), random.Random(seed)
    for at in picks(history, Invoke, chance, 8):
        invoke = history.records[at]
        assert isinstance(invoke, Invoke)
        assert spoiled(history, at, invoke, invoke).violations["duplicated"] == 1
        seen = named(history, invoke.id, at)
        assert (spoiled(history, at).violations["phantom"] > 0) == seen
        assert (spoiled(history, at, invoke._replace(id="other")).violations["phantom"] > 0) == seen


def spoilings(r: Received) -> Iterator[tuple[Record, ...]]:
    yield (r, r)
    yield (r._replace(id="other"),)
    yield (r._replace(sender="other"),)
    yield (r._replace(conversation="other"),)
    yield (r._replace(body="other"),)
    yield (r._replace(kind="other"),)
    yield (r._replace(hlc=r.hlc + 1),)


@pytest.mark.parametrize("seed", SEEDS)
def test_spoiled_receptions_are_noticed(seed: int) -> None:
    history, chance = simulate(seed), random.Random(seed)
    for at in picks(history, Received, chance, 4):
        received = history.records[at]
        assert isinstance(received, Received)
        for records in spoilings(received):
            assert spoiled(history, at, *records).verdict == "broken"


@pytest.mark.parametrize("seed", SEEDS)
def test_spoiled_answers_are_noticed(seed: int) -> None:
    history, chance = simulate(seed), random.Random(seed)
    for at in picks(history, Told, chance, 4):
        told = history.records[at]
        assert isinstance(told, Told)
        assert spoiled(history, at, told._replace(id="other")).violations["phantom"] == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_spoiled_reads_are_noticed(seed: int) -> None:
    history, chance = simulate(seed), random.Random(seed)
    owed = promised(history)
    for at in picks(history, Read, chance, 8):
        read = history.records[at]
        assert isinstance(read, Read)
        if len(read.ids) < 2:
            continue
        first, *rest = read.ids
        assert spoiled(history, at, read._replace(ids=(first, first, *rest))).verdict == "broken"
        assert spoiled(history, at, read._replace(ids=(*rest, first))).verdict == "broken"
        assert spoiled(history, at, read._replace(ids=(*read.ids, "other"))).verdict == "broken"
        gap = any(type(r).__name__ == "Gap" and r.t < read.t for r in history.records)
        for id_ in [] if gap else rest:
            # A message in the middle, already seen by its reader, must not be missing.
            seen = any(
                isinstance(r, Received) and r.session == read.session and r.id == id_ for r in history.records[:at]
            )
            if seen and id_ in owed:
                without = tuple(one for one in read.ids if one != id_)
                assert spoiled(history, at, read._replace(ids=without)).violations["session"]
