"""Several runs of one drill in a few lines: a line each, and the median and the worst of all."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any


def line(certificate: dict[str, Any]) -> str:
    """One run."""
    gap, rpo = certificate["gap_ms"], certificate["rpo"]
    return (
        f"seed {certificate['seed']:>6}  {certificate['verdict']:6}  "
        f"violations {sum(certificate['violations'].values())}  "
        f"gap ms p50 {_ms(gap['p50'])} p99 {_ms(gap['p99'])} max {_ms(gap['max'])}  "
        f"only in the dead region {rpo['accepted_messages']}, replicated lost {rpo['replicated_messages']}  "
        f"converged {certificate['converged_s']} s"
    )


def whole(certificates: Sequence[dict[str, Any]]) -> list[str]:
    """All runs together."""
    held = sum(c["verdict"] == "held" for c in certificates)
    counts = {key: sum(c["counts"][key] for c in certificates) for key in certificates[0]["counts"]}
    lines = [
        f"{len(certificates)} runs of {certificates[0]['drill']}: {held} held, "
        f"{sum(sum(c['violations'].values()) for c in certificates)} violations",
        "sends: " + ", ".join(f"{number} {key}" for key, number in counts.items()),
        f"replicated messages lost: {sum(c['rpo']['replicated_messages'] for c in certificates)}; "
        f"accepted only in the dead region when it died: "
        f"{_spread([c['rpo']['accepted_messages'] for c in certificates])}",
    ]
    for name, key, figure in (
        ("gap p99 ms", "gap_ms", "p99"),
        ("gap max ms", "gap_ms", "max"),
        ("delivery p50 ms", "delivery_ms", "p50"),
        ("delivery p99 ms", "delivery_ms", "p99"),
    ):
        lines.append(f"{name}: {_spread([c[key][figure] for c in certificates])}")
    lines.append(f"converged s: {_spread([c['converged_s'] for c in certificates])}")
    return lines


def _spread(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    unknown = f", {len(values) - len(known)} unknown" if len(known) < len(values) else ""
    return f"median {median(known):g}, worst {max(known):g}{unknown}"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"
