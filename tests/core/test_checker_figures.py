"""The checker's figures on histories told by hand: convergence, gaps, RPO, times, limits."""

from __future__ import annotations

import pytest

from evertalk.core.checker import check
from evertalk.core.history import Converged, Received
from tests.core.stories import HEADER, Story, chat, simulate


def test_no_convergence_breaks_it() -> None:
    story = chat().converges(timed_out=True).final("seoul-a", "m1", "m2").final("busan-a", "m1", "m2")
    report = check(story.history())
    assert (report.verdict, report.converged_s, report.found) == ("broken", None, [])
    assert report.reasons == ["The replicas' digests did not become equal in time."]


def test_a_history_without_final_reads_proves_nothing() -> None:
    report = check(chat().converges().history())
    assert report.verdict == "broken"
    assert report.reasons == ["No replica was read at the end."]


def test_a_live_replica_must_be_read_at_the_end() -> None:
    report = check(chat().converges().final("seoul-a", "m1", "m2").history())
    assert report.verdict == "broken"
    assert "busan-a" in report.reasons[0]


@pytest.mark.parametrize("target", ["busan", "busan-a"])
def test_a_replica_that_is_still_away_need_not_be_read(target: str) -> None:
    story = chat().fault("crash", target).converges().final("seoul-a", "m1", "m2")
    assert check(story.history()).verdict == "held"


def test_convergence_counts_from_the_return() -> None:
    story = chat().fault("crash").says("ana", "m3").accepted("m3", "busan-1").returned()
    returned = story.t
    report = check(story.ends("m1", "m2", "m3"))
    converged = next(r for r in story.records if isinstance(r, Converged))
    assert report.converged_s == pytest.approx(converged.t - returned)


def test_the_gap_of_a_client_is_its_longest_wait_for_an_ack() -> None:
    story = Story().says("ana", "m1").says("ana", "m2").accepted("m1").fault("crash")
    story.t = 2.0
    story.accepted("m2", "busan-1").says("bo", "m3").accepted("m3", "busan-1").returned()
    report = check(story.ends("m1", "m2", "m3"))
    # ana: from the ack of m1 at 0.3 to that of m2 at 2.1; bo: 100 ms.
    assert report.gap_ms == {"p50": 100.0, "p99": 1800.0, "max": 1800.0}
    gap = report.limits[0]
    assert (gap.name, gap.measured, gap.limit, gap.within) == ("gap_p99_ms", 1800.0, 1000.0, False)
    assert report.verdict == "held"  # limits do not enter


def test_after_a_silent_hang_the_limit_is_twice_as_wide() -> None:
    report = check(chat().fault("hang").returned().ends("m1", "m2"))
    assert report.limits[0].limit == 2000.0


def test_the_headers_limits_come_first() -> None:
    header = HEADER._replace(limits={"gap_p99_ms": 5.0, "converged_s": 0.01})
    report = check(Story(header).says("ana", "m1").replicated("m1").ends("m1"))
    assert [(one.limit, one.within) for one in report.limits] == [(5.0, False), (0.01, False)]


def test_a_send_that_is_never_answered_waits_to_the_end() -> None:
    story = Story().says("ana", "m1").fault("crash", "busan")
    story.t = 5.0
    report = check(story.returned("busan").ends())
    assert report.gap_ms["max"] == pytest.approx(5100 - 100, abs=300)


def test_rpo_is_what_hung_on_the_region_alone() -> None:
    story = Story()
    for n in range(1, 5):
        story.says("ana", f"m{n}").accepted(f"m{n}")
    story.told("m1", "replicated").watermark(2).fault("lost")
    for n in range(3, 5):
        story.accepted(f"m{n}", "busan-1")
    report = check(story.returned().ends("m1", "m2", "m3", "m4"))
    # m1 was told REPLICATED, busan's watermark stood at m2's position: m3 and m4, 200 ms apart.
    assert report.rpo == {"accepted_messages": 2, "accepted_seconds": 0.2, "replicated_messages": 0}


def test_times_of_delivery_and_replication() -> None:
    report = check(chat().ends("m1", "m2"))
    assert report.delivery_ms["max"] == 300.0
    assert report.replication_ms == {"p50": 100.0, "p99": 100.0, "max": 100.0}


def test_late_is_counted() -> None:
    report = check(chat().shown("ana", "m2", late=True).shown("cy", "m2", late=True).ends("m1", "m2"))
    assert report.counts["late"] == 1


def test_judging_changes_nothing_and_is_repeatable() -> None:
    history = simulate(3)
    before = list(history.records)
    assert check(history) == check(history)
    assert history.records == before
    assert any(isinstance(r, Received) for r in before)
