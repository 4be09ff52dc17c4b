"""What a run comes to: the figures as JSON, and as a table on the screen."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from evertalk.drill.run import commit
from loadtest.bench import Seen, Setup
from loadtest.measure import SERVERS, Used

Figures = dict[str, Any]


def figures(setup: Setup, seen: Seen, floors: Mapping[str, float]) -> Figures:
    """A measured run in figures.

    Costs are CPU microseconds of all server processes per delivery; latencies are milliseconds from the moment when a
    send was due to its arrival, in the sender's own region (`latency_ms`) and in others.
    """
    used, tally = seen.used, seen.tally
    heard = max(1, tally.counts["heard"])
    sent = max(1, tally.counts["acked"])
    cost = used.server_cpu_s / heard * 1e6
    histograms = {name: histogram.in_ms() for name, histogram in tally.histograms.items()}
    floor = floor_us(floors, setup, heard / sent)
    return {
        "deliveries_per_s": round(heard / used.seconds, 1),
        "sends_per_s": round(sent / used.seconds, 1),
        "server_cpu_us_per_delivery": round(cost, 1),
        "server_cpu_us_per_send": round(used.server_cpu_s / sent * 1e6, 1),
        "not_delivered_share": round(max(0.0, 1 - heard / max(1, seen.expected)), 3),
        "server_cpu_us_by_kind": {kind: round(used.kinds.get(kind, 0) / heard * 1e6, 1) for kind in SERVERS},
        "latency_ms": histograms["same"],
        "latency_other_region_ms": histograms["other"],
        "latency_ack_ms": histograms["ack"],
        "generator_late_ms": histograms["late"],
        "wan_delay_ms": setup.delay_ms,
        "rss_kb_per_client": round(seen.client_rss / 1024, 1),
        "floors": dict(floors),
        "floor_cpu_us_per_delivery": round(floor, 1),
        "ratio_to_floor": round(cost / floor, 2) if floor else None,
        "nodes_per_region": setup.nodes,
        "regions": setup.regions,
        "users": setup.users,
        "generator": setup.generator,
        "frames": setup.frames,
        "lost": seen.lost,
        "doubled": seen.doubled,
        "unanswered": seen.open,
        "refused": tally.counts["refused"],
        "frames_in_per_delivery": round(tally.counts["frames_in"] / heard, 3),
        "frames_out_per_send": round(tally.counts["frames_out"] / sent, 3),
        "client_bytes_per_delivery": round((tally.counts["bytes_in"] + tally.counts["bytes_out"]) / heard, 1),
        "wan_bytes_per_send": round(used.wan / sent, 1),
        "redis_bytes_per_send": {"in": round(used.redis_in / sent, 1), "out": round(used.redis_out / sent, 1)},
        "aof_bytes_per_send": round(used.aof / sent, 1),
        "redis_calls_per_send": {name: round(calls / sent, 3) for name, calls in used.calls.most_common(8)},
        "cpu_s": {name: round(spent, 2) for name, spent in used.cpu_s.items()},
        "rss_mb": {name: round(size / 1e6, 1) for name, size in used.rss.items()},
        "generator_cpu_s": round(seen.generator_cpu_s, 2),
        "machine": machine(used, seen.generator_cpu_s),
        "seconds": round(used.seconds, 2),
    }


def machine(used: Used, generators_s: float = 0.0) -> dict[str, float]:
    """The noise: shares of all cores that were busy, that the hypervisor took, and that others than this run had."""
    own = (sum(used.cpu_s.values()) + generators_s) / used.seconds / (os.cpu_count() or 1)
    return {
        "busy_share": round(used.busy_share, 3),
        "stolen_share": round(used.stolen_share, 4),
        "others_share": round(max(0.0, used.busy_share - own), 3),
    }


def floor_us(floors: Mapping[str, float], setup: Setup, fan: float) -> float:
    """CPU per delivery of the bare hops: half an echo for a send that comes in and one for each that goes out, an entry
    in each region's Redis, the rows in each node's store. `fan`: deliveries per send."""
    if not floors:
        return 0.0
    stores = setup.nodes * setup.regions
    per_send = floors["echo_cpu_us"] / 2 + setup.regions * floors["xadd_cpu_us"] + stores * floors["sqlite_cpu_us"]
    return per_send / fan + floors["echo_cpu_us"] / 2


def median(runs: Sequence[Figures]) -> Figures:
    """Medians, figure by figure; what is no number, or not in all, is the first run's."""
    first = runs[0]
    found: Figures = {}
    for name, value in first.items():
        values = [run[name] for run in runs if name in run]
        if isinstance(value, dict) and all(isinstance(each, dict) for each in values):
            found[name] = median(values)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = statistics.median(each for each in values if isinstance(each, int | float))
        else:
            found[name] = value
    return found


def spread(runs: Sequence[Figures], name: str) -> list[float]:
    """Lowest and highest of a figure over all runs."""
    values = [run[name] for run in runs if isinstance(run.get(name), int | float)]
    return [min(values), max(values)] if values else []


SPREAD = ("deliveries_per_s", "server_cpu_us_per_delivery", "rss_kb_per_client")


def write(path: Path, name: str, command: str, runs: Sequence[Figures]) -> Figures:
    """Medians of all runs, and the runs, in a file."""
    whole = {
        "workload": name,
        "command": command,
        "commit": commit(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine_name": platform.platform(),
        **median(runs),
        "spread": {each: spread(runs, each) for each in SPREAD if each in runs[0]},
        "runs": list(runs),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, indent=1) + "\n")
    return whole


def show(console: Console, title: str, found: Figures) -> None:
    """The table."""
    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    lines = [(name, _text(value)) for name, value in found.items() if name not in _NOT_SHOWN and value != {}]
    for name, text in lines:
        table.add_row(name.replace("_", " "), text)
    console.print(table)
    if "growth" in found:
        _show_growth(console, found["growth"])


def _show_growth(console: Console, growth: Figures) -> None:
    """First sample, medians of the second and of the last quarter, and the difference of these."""
    table = Table("figure", "of")
    for column in ("first", "middle", "last", "growth"):
        table.add_column(column, justify="right")
    for figure, whose in growth.items():
        for who, grown in whose.items():
            values = ["" if grown[name] is None else _text(grown[name]) for name in ("first", "middle", "last")]
            share = "–" if grown["growth"] is None else f"{grown['growth']:+.1%}"
            table.add_row(figure.replace("_", " "), who, *values, share)
    console.print(table)


_NOT_SHOWN = frozenset(
    {
        "samples",
        "growth",
        "kills",
        "sent",
        "verdict",
        "runs",
        "cpu_s",
        "command",
        "workload",
        "machine_name",
        "python",
        "when",
        "commit",
    }
)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {_text(each)}" for name, each in value.items())
    if isinstance(value, list):
        return " … ".join(_text(each) for each in value)
    return f"{value:,.6g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
