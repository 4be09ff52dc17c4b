"""Many runs in one table: read from their certificates, printed for people or as Markdown for docs/drills.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from evertalk.drill.certificate import CERTIFICATE, CertificateError, read_certificate, verify

_HEADS = (
    "drill", "driver", "runs", "held", "gap ms: median, worst p99", "limit", "lost", "only in the dead region, worst",
    "converged s: median, worst",
)  # fmt: skip


class Failure(NamedTuple):
    """A run that did not come to its end, and why."""

    drill: str
    driver: str
    sentence: str


def find(directories: Iterable[Path]) -> list[dict[str, Any]]:
    """Every certificate in or below these directories, each checked against its history.

    Raises:
        CertificateError: there is none, or one does not say what its history says.
    """
    found = []
    for directory in directories:
        places = sorted({path.parent for path in directory.rglob(CERTIFICATE)})
        if not places:
            raise CertificateError(f"there is no {CERTIFICATE} in or below {directory}")
        for place in places:
            if differences := verify(place):
                raise CertificateError(f"the certificate in {place} is not to be trusted: {differences[0]}")
            found.append(read_certificate(place))
    return found


def rows(certificates: Sequence[dict[str, Any]], failures: Sequence[Failure] = ()) -> list[tuple[str, ...]]:
    """A row for each drill and driver, in order of appearance."""
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for one in certificates:
        grouped[one["drill"], one["driver"]].append(one)
    failed: dict[tuple[str, str], int] = defaultdict(int)
    for failure in failures:
        failed[failure.drill, failure.driver] += 1
    return [_row(*key, grouped.get(key, []), failed.get(key, 0)) for key in dict.fromkeys([*grouped, *failed])]


def _row(drill: str, driver: str, runs: Sequence[dict[str, Any]], failed: int) -> tuple[str, ...]:
    held = sum(c["verdict"] == "held" for c in runs)
    number = len(runs) + failed
    over = any(not limit["within"] for c in runs for limit in c["limits"])
    limit = max((one["limit"] for c in runs for one in c["limits"] if one["name"] == "gap_p99_ms"), default=None)
    rpo = [c["rpo"] for c in runs]
    exposed = max((r["accepted_messages"] for r in rpo), default=0)
    return (
        drill,
        driver,
        str(number),
        f"{held} of {number}" + (", a limit exceeded" if over else ""),
        _spread([c["gap_ms"]["p99"] for c in runs]),
        "–" if limit is None else f"{limit:g}",
        str(sum(c["violations"]["lost"] for c in runs)),
        f"{exposed} in {max((r['accepted_seconds'] for r in rpo), default=0):.2f} s" if exposed else "0",
        _spread([c["converged_s"] for c in runs]),
    )


def _spread(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    unknown = f", {len(values) - len(known)} never" if len(known) < len(values) else ""
    return f"{_number(median(known))}, {_number(max(known))}{unknown}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def markdown(found: Sequence[tuple[str, ...]]) -> list[str]:
    """The rows as a Markdown table."""
    lines = [" | ".join(_HEADS), "|".join("---" for _ in _HEADS), *(" | ".join(row) for row in found)]
    return [f"| {line} |" if "---" not in line else f"|{line}|" for line in lines]


def show(found: Sequence[tuple[str, ...]]) -> None:
    """The rows for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*_HEADS)
    for row in found:
        table.add_row(*row)
    Console().print(table)
