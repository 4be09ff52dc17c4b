"""Certificates of many runs in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evertalk.drill.certificate import CertificateError
from evertalk.drill.table import Failure, find, markdown, rows


def certificate(drill: str, gap: float, verdict: str = "held", converged: float | None = 2.0) -> dict[str, Any]:
    return {
        "drill": drill,
        "driver": "process",
        "verdict": verdict,
        "violations": {"lost": 0 if verdict == "held" else 1},
        "rpo": {"accepted_messages": 3, "accepted_seconds": 0.1, "replicated_messages": 0},
        "gap_ms": {"p50": 1.0, "p99": gap, "max": gap},
        "converged_s": converged,
        "limits": [{"name": "gap_p99_ms", "measured": gap, "limit": 1000.0, "within": gap < 1000}],
    }


def test_runs_of_one_drill_become_one_row_with_the_worst_beside_the_median() -> None:
    (row,) = rows([certificate("kill-region", gap) for gap in (120.0, 80.0, 300.0)])
    assert row[:6] == ("kill-region", "process", "3", "3 of 3", "120, 300", "1000")


def test_what_broke_what_was_slow_and_what_never_ended_is_seen() -> None:
    found = rows(
        [certificate("a", 1200.0), certificate("b", 10.0, "broken", None)],
        [Failure("b", "process", "it fell over"), Failure("c", "process", "so did this")],
    )
    assert [row[3] for row in found] == ["1 of 1, a limit exceeded", "0 of 2", "0 of 1"]
    assert found[1][-1] == "–"
    assert found[1][6] == "1"


def test_markdown_has_a_line_for_the_heads_and_one_for_each_row() -> None:
    lines = markdown(rows([certificate("a", 1.0)]))
    assert len(lines) == 3
    assert {line.count("|") for line in lines} == {10}


def test_a_folder_without_a_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"there is no certificate\.json in or below"):
        find([tmp_path])
