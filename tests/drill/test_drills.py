"""The list of drills, and the page that tells of them."""

from __future__ import annotations

from pathlib import Path

from evertalk.drill.drills import DRILLS

PAGE = Path(__file__).parents[2] / "docs" / "drills.md"


def test_the_page_tells_of_every_drill_what_the_list_says() -> None:
    rows = {line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")}
    wanted = {f"| `{drill.name}` | {drill.breaks} | {drill.holds} |" for drill in DRILLS.values()}
    assert wanted <= rows


def test_every_drill_has_time_for_what_it_does() -> None:
    assert all(drill.seconds >= 20 and drill.gap_ms in (1000, 2000) for drill in DRILLS.values())
