"""The checker on histories told by hand: one for each way to break a promise, and good ones that look like it."""

from __future__ import annotations

from typing import Any

import pytest

from evertalk.core.checker import VIOLATIONS, Report, check
from evertalk.core.history import Final, Gauge, Told
from tests.core.stories import Story, chat, simulate


def kinds(report: Report) -> set[str]:
    return {kind for kind in VIOLATIONS if report.violations[kind]}


# ---------------------------------------------------------------- what holds


def test_a_quiet_chat_holds() -> None:
    report = check(chat().shown("ana", "m2").reads("ana", "m1", "m2").ends("m1", "m2"))
    assert report.verdict == "held"
    assert report.reasons == []
    assert report.counts["accepted"] == report.counts["replicated"] == 2
    assert report.counts["delivered"] == 2


@pytest.mark.parametrize("seed", range(40))
def test_a_correct_world_holds_whatever_happens(seed: int) -> None:
    report = check(simulate(seed))
    assert (report.verdict, report.found) == ("held", [])


def test_a_send_of_unknown_outcome_may_show_or_not() -> None:
    story = chat().says("ana", "m3").told("m3", "unknown").says("bo", "m4")
    assert check(story.ends("m1", "m2", "m3", "m4")).verdict == "held"
    story = chat().says("ana", "m3").told("m3", "unknown").says("bo", "m4")
    report = check(story.ends("m1", "m2"))
    assert report.verdict == "held"
    assert report.counts["unknown"] == 2


def test_a_deleted_message_is_not_lost() -> None:
    story = chat().says("ana", "x", op="delete", target="m1").replicated("x")
    assert check(story.ends("m2")).verdict == "held"


def test_a_deletion_of_unknown_outcome_excuses_both() -> None:
    for final in (("m1", "m2"), ("m2",)):
        story = chat().says("ana", "x", op="delete", target="m1").told("x", "unknown")
        assert check(story.ends(*final)).verdict == "held"


def test_gauges_are_passed_by() -> None:
    story = chat()
    story.records.append(Gauge(1.0, "rss_bytes", 1e9, "seoul-a"))
    assert check(story.ends("m1", "m2")).verdict == "held"


# ---------------------------------------------------------------- lost (P1, P2)


@pytest.mark.parametrize("ack", ["accepted", "replicated"])
def test_an_acknowledged_message_that_is_nowhere_is_lost(ack: str) -> None:
    story = chat().says("ana", "m3")
    story = story.accepted("m3") if ack == "accepted" else story.replicated("m3")
    report = check(story.ends("m1", "m2"))
    assert kinds(report) == {"lost"}
    assert report.found[0].ids == ("m3",)
    assert report.reasons[0].startswith("1 acknowledged messages lost; the first: message m3")
    assert report.rpo["replicated_messages"] == (ack == "replicated")


def test_missing_in_one_replica_is_lost_and_diverged() -> None:
    story = chat().converges().final("seoul-a", "m1", "m2").final("busan-a", "m1")
    report = check(story.history())
    assert kinds(report) == {"lost", "diverged"}
    assert "missing in busan-a" in report.found[0].sentence


def test_a_failed_deletion_excuses_nothing() -> None:
    story = chat().says("ana", "x", op="delete", target="m1").told("x", "failed")
    assert kinds(check(story.ends("m2"))) == {"lost"}


def burned(effect: str = "lost") -> Story:
    """m3 was acknowledged by seoul alone when seoul went, disks and all."""
    return chat().says("ana", "m3").accepted("m3", "seoul-1").fault(effect)


def test_a_living_senders_outbox_should_have_resent_it() -> None:
    report = check(burned().returned().ends("m1", "m2"))
    assert kinds(report) == {"lost"}
    assert report.rpo["accepted_messages"] == 1


def test_resent_to_the_other_region_it_is_there() -> None:
    report = check(burned().accepted("m3", "busan-1").told("m3", "replicated").returned().ends("m1", "m2", "m3"))
    assert report.verdict == "held"
    assert report.rpo == {"accepted_messages": 1, "accepted_seconds": 0.0, "replicated_messages": 0}


def test_resent_and_still_missing_it_is_lost() -> None:
    assert kinds(check(burned().accepted("m3", "busan-1").returned().ends("m1", "m2"))) == {"lost"}


@pytest.mark.parametrize("how", ["gone", "released"])
def test_without_an_outbox_it_is_counted_in_rpo(how: str) -> None:
    story = burned()
    story = story.gone("ana") if how == "gone" else story.told("m3", "released")
    report = check(story.returned().ends("m1", "m2"))
    assert report.verdict == "held"
    assert report.rpo["accepted_messages"] == 1


def test_an_outbox_that_was_kept_on_disk_excuses_nothing() -> None:
    assert kinds(check(burned().gone("ana", kept=True).returned().ends("m1", "m2"))) == {"lost"}


def test_a_region_that_kept_its_disks_brings_it_back() -> None:
    assert kinds(check(burned("crash").gone("ana").returned().ends("m1", "m2"))) == {"lost"}


def test_a_region_that_never_came_back_has_it_on_its_disks() -> None:
    story = burned("crash").gone("ana").converges().final("busan-a", "m1", "m2")
    assert check(story.history()).verdict == "held"


def test_clients_closed_after_the_final_reads_excuse_nothing() -> None:
    story = burned().returned()
    story.ends("m1", "m2")
    assert kinds(check(story.gone("ana").history())) == {"lost"}


def test_a_new_life_of_a_lost_region_keeps_what_it_accepts() -> None:
    story = burned().gone("ana").returned().says("bo", "m4").accepted("m4", "seoul-2")
    assert kinds(check(story.gone("bo").ends("m1", "m2"))) == {"lost"}


# ---------------------------------------------------------------- duplicated (P3)


def test_twice_in_a_final_read() -> None:
    assert kinds(check(chat().ends("m1", "m2", "m2"))) == {"duplicated"}


def test_an_unknown_send_may_not_show_twice_either() -> None:
    story = chat().says("ana", "m3").told("m3", "unknown")
    assert kinds(check(story.ends("m1", "m2", "m3", "m3"))) == {"duplicated"}


def test_shown_twice_to_one_running_session() -> None:
    report = check(chat().shown("bo", "m1").ends("m1", "m2"))
    assert kinds(report) == {"duplicated"}
    assert len(report.found[0].lines) == 2


def test_a_restarted_client_may_be_shown_it_again() -> None:
    story = chat().gone("bo", kept=True).shown("bo", "m1")
    assert check(story.ends("m1", "m2")).verdict == "held"


def test_two_sends_under_one_id() -> None:
    assert "duplicated" in kinds(check(chat().says("cy", "m1").ends("m1", "m2")))


# ---------------------------------------------------------------- phantom


def test_never_said() -> None:
    story = chat().says("eve", "m3")
    story.records.pop()
    report = check(story.ends("m1", "m2", "m3"))
    assert kinds(report) == {"phantom"}
    assert "never invoked" in report.found[0].sentence


def test_received_but_never_said() -> None:
    story = chat().says("eve", "m3")
    story.records.pop()
    assert kinds(check(story.shown("bo", "m3").ends("m1", "m2"))) == {"phantom"}


@pytest.mark.parametrize("field", ["body", "sender", "kind", "hlc"])
def test_shown_otherwise_than_it_was_said(field: str) -> None:
    change: dict[str, Any] = {field: 999 if field == "hlc" else "other"}
    assert kinds(check(chat().shown("ana", "m2", **change).ends("m1", "m2"))) == {"phantom"}
    story = chat().converges()
    for node in ("seoul-a", "busan-a"):
        story.final(node, "m1", "m2", **change)
    assert kinds(check(story.history())) == {"phantom"}


def test_a_send_that_failed_definitely_shows_up() -> None:
    story = chat().says("ana", "m3").told("m3", "failed")
    assert kinds(check(story.ends("m1", "m2", "m3"))) == {"phantom"}
    story = chat().says("ana", "m3").told("m3", "failed").shown("bo", "m3")
    assert kinds(check(story.ends("m1", "m2"))) == {"phantom"}


def test_an_answer_to_nothing() -> None:
    story = chat()
    story.records.append(Told(9.0, "ana", "m9", "replicated"))
    assert kinds(check(story.ends("m1", "m2"))) == {"phantom"}


# ---------------------------------------------------------------- order (P4)


def test_a_sessions_own_order() -> None:
    story = Story().says("ana", "m1").replicated("m1").says("ana", "m2").replicated("m2")
    report = check(story.ends("m2", "m1"))
    assert kinds(report) == {"sender_order", "causal_order"}
    assert report.found[0].ids == ("m2", "m1")


def test_a_reply_before_its_parent() -> None:
    assert kinds(check(chat().ends("m2", "m1"))) == {"causal_order"}


def test_a_reply_whose_parent_its_author_is_not_seen_to_receive() -> None:
    story = Story().says("ana", "m1").replicated("m1").says("bo", "m2", "m1").replicated("m2")
    assert kinds(check(story.ends("m2", "m1"))) == {"causal_order"}


def test_a_message_before_one_its_author_had_received() -> None:
    story = Story().says("ana", "m1").replicated("m1").shown("bo", "m1").says("bo", "m2").replicated("m2")
    report = check(story.ends("m2", "m1"))
    assert kinds(report) == {"causal_order"}
    assert report.found[0].lines == (5, 6, 10, 11)


def test_concurrent_messages_may_stand_either_way() -> None:
    story = Story().says("ana", "m1").says("bo", "m2").replicated("m1").replicated("m2")
    story.shown("bo", "m1").shown("ana", "m2")
    assert check(story.ends("m2", "m1")).verdict == "held"


@pytest.mark.parametrize("marked", [False, True])
def test_live_a_reply_shown_before_its_parent_must_be_marked(marked: bool) -> None:
    story = chat().shown("cy", "m2", parent_missing=marked).shown("cy", "m1")
    report = check(story.ends("m1", "m2"))
    assert kinds(report) == (set() if marked else {"causal_order"})
    assert report.figures == {"live_causal": 1, "parent_missing": int(marked)}


def test_a_parent_that_was_read_before_is_no_inversion() -> None:
    story = chat().reads("cy", "m1", "m2").shown("cy", "m2").shown("cy", "m1")
    assert check(story.ends("m1", "m2")).figures["live_causal"] == 0


def test_a_parent_from_before_the_session_is_no_inversion() -> None:
    report = check(chat().shown("cy", "m2").ends("m1", "m2"))
    assert report.figures["live_causal"] == 0


# ---------------------------------------------------------------- diverged (P4)


def test_equal_messages_with_unequal_digests() -> None:
    story = chat().converges().final("seoul-a", "m1", "m2", digest="x").final("busan-a", "m1", "m2", digest="y")
    assert kinds(check(story.history())) == {"diverged"}


def test_two_orders_of_concurrent_messages() -> None:
    story = Story().says("ana", "m1").says("bo", "m2").replicated("m1").replicated("m2").converges()
    report = check(story.final("seoul-a", "m1", "m2").final("busan-a", "m2", "m1").history())
    assert kinds(report) == {"diverged"}
    assert "order" in report.found[0].sentence


def test_a_conversation_that_one_replica_lacks() -> None:
    story = Story().says("ana", "m1").told("m1", "unknown").converges().final("seoul-a")
    story.records.append(Final(9.0, "busan-a", "busan", "other", (), "d"))
    assert kinds(check(story.history())) == {"diverged"}


# ---------------------------------------------------------------- sessions (P5)


def test_read_your_writes() -> None:
    report = check(chat().reads("bo", "m1").ends("m1", "m2"))
    assert kinds(report) == {"session"}
    assert report.found[0].sentence.startswith("read your writes: bo")


def test_an_ack_that_came_while_the_read_was_on_its_way_binds_nothing() -> None:
    story = chat().reads("bo", "m1", "m2").says("bo", "m3")
    asked = story.t
    story.accepted("m3").reads("bo", "m1", "m2", asked=asked)
    assert check(story.ends("m1", "m2", "m3")).verdict == "held"


def test_monotonic_reads_of_what_was_received() -> None:
    report = check(chat().reads("bo", "m2").ends("m1", "m2"))
    sentences = [v.sentence.split(":")[0] for v in report.found]
    assert kinds(report) == {"session"}
    assert sentences == ["monotonic reads", "writes follow reads"]


def test_monotonic_reads_of_what_was_read() -> None:
    story = chat().reads("cy", "m1", "m2").reads("cy", "m1")
    report = check(story.ends("m1", "m2"))
    assert kinds(report) == {"session"}
    assert report.found[0].ids == ("m2",)


def test_a_message_that_stays_away_is_named_once() -> None:
    story = chat().reads("bo", "m2").reads("bo", "m2").reads("bo", "m2")
    sentences = [v.sentence.split(":")[0] for v in check(story.ends("m1", "m2")).found]
    assert sentences == ["monotonic reads", "writes follow reads"]


def test_reads_in_another_order() -> None:
    story = Story().says("ana", "m1").replicated("m1").says("bo", "m2").replicated("m2")
    assert kinds(check(story.reads("cy", "m2", "m1").ends("m1", "m2"))) == {"session"}


def test_monotonic_writes() -> None:
    story = Story().says("ana", "m1").replicated("m1").says("ana", "m2").replicated("m2")
    report = check(story.reads("cy", "m2").ends("m1", "m2"))
    assert kinds(report) == {"session"}
    assert report.found[0].sentence.startswith("monotonic writes: cy")


def test_a_gap_told_to_the_reader_excuses_what_others_said_before() -> None:
    story = Story().says("ana", "m1").replicated("m1").says("ana", "m2").replicated("m2")
    assert check(story.gap("cy", ("seoul-1", 0, 1)).reads("cy", "m2").ends("m1", "m2")).verdict == "held"


def test_writes_follow_reads() -> None:
    report = check(chat().reads("cy", "m2").ends("m1", "m2"))
    assert kinds(report) == {"session"}
    assert report.found[0].sentence.startswith("writes follow reads: cy")


def test_a_read_that_marks_an_answer_may_lack_its_parent() -> None:
    """Only a dead region holds the parent, and nobody but its author was there when the answer was delivered (R11)."""
    assert check(chat().reads("cy", "m2", orphans=("m2",)).ends("m1", "m2")).verdict == "held"


def test_a_mark_excuses_only_what_is_missing_before_that_message() -> None:
    story = chat().says("bo", "m3", "m2").replicated("m3")
    report = check(story.reads("cy", "m1", "m3", orphans=("m1",)).ends("m1", "m2", "m3"))
    assert kinds(report) == {"session"}


def test_a_mark_in_one_read_excuses_no_other() -> None:
    story = chat().reads("cy", "m2", orphans=("m2",)).reads("di", "m2")
    report = check(story.ends("m1", "m2"))
    assert [v.sentence.partition(" read ")[0] for v in report.found] == ["writes follow reads: di"]


def test_no_mark_excuses_a_read_after_convergence() -> None:
    story = chat()
    story.ends("m1", "m2")
    assert kinds(check(story.reads("cy", "m2", orphans=("m2",)).history())) == {"session"}


def test_writes_follow_what_was_only_read() -> None:
    story = Story().says("ana", "m1").replicated("m1").reads("bo", "m1").says("bo", "m2").replicated("m2")
    report = check(story.ends("m2", "m1"))
    assert kinds(report) == {"session"}


def test_a_read_of_what_one_had_deleted() -> None:
    story = chat().says("ana", "x", op="delete", target="m1").replicated("x").reads("ana", "m1", "m2")
    assert kinds(check(story.ends("m2"))) == {"session"}


def test_a_read_cut_at_its_old_end_is_judged_from_there() -> None:
    assert check(chat().reads("bo", "m2", whole=False).ends("m1", "m2")).verdict == "held"
    assert kinds(check(chat().reads("bo", "m1", whole=False).ends("m1", "m2"))) == {"session"}


def test_a_read_that_says_gap_is_counted_and_no_violation() -> None:
    report = check(chat().reads("bo", "m1", gap=True).ends("m1", "m2"))
    assert report.verdict == "held"
    assert report.counts["gaps"] == 1


def test_a_gap_told_to_the_session_excuses_what_it_names() -> None:
    story = chat().gap("bo", ("seoul-1", 0, 2)).reads("bo", "m1")
    assert check(story.ends("m1", "m2")).verdict == "held"
    story = chat().gap("bo", ("seoul-1", 0, 1)).reads("bo", "m1")
    assert kinds(check(story.ends("m1", "m2"))) == {"session"}
    story = chat().gap("bo", ("busan-1", 0, 9)).reads("bo", "m1")
    assert kinds(check(story.ends("m1", "m2"))) == {"session"}
    story = chat().gap("ana", ("seoul-1", 0, 2)).reads("bo", "m1")
    assert kinds(check(story.ends("m1", "m2"))) == {"session"}


def test_no_gap_excuses_a_read_after_convergence() -> None:
    story = chat().gap("bo", ("seoul-1", 0, 2))
    story.ends("m1", "m2")
    assert kinds(check(story.reads("bo", "m1").history())) == {"session"}


# ---------------------------------------------------------------- resurrected (P9)


def test_a_deleted_message_is_back() -> None:
    story = chat().says("ana", "x", op="delete", target="m1").replicated("x")
    report = check(story.ends("m1", "m2"))
    assert kinds(report) == {"resurrected"}
    assert report.found[0].ids == ("m1", "x")


def test_a_deletion_that_died_with_its_region_and_client_binds_nothing() -> None:
    story = chat().says("ana", "x", op="delete", target="m1").accepted("x").fault("lost").gone("ana").returned()
    assert check(story.ends("m1", "m2")).verdict == "held"
