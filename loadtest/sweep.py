"""One thing varied, all else equal: python -m loadtest.sweep AXIS --out DIR writes DIR/sweep-AXIS.json for plots."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from loadtest import command, groups, pairs, result
from loadtest.bench import Say, Setup
from loadtest.result import Figures


class Axis(NamedTuple):
    """What is varied: the field of Setup, in which workload, over which values."""

    sentence: str
    field: str
    setup: Setup
    run: Callable[[Setup, Mapping[str, float], Say], Awaitable[Figures]]
    values: tuple[int, ...]


AXES = {
    "throughput": Axis(
        "W1's pairs, paced: latency by rate", "rate", pairs.W1, pairs.run, (200, 1000, 2000, 4000, 8000)
    ),
    "users": Axis("W3 with more users, at the same total rate", "users", pairs.W3, pairs.run, (100, 300, 1000, 2000)),
    "nodes": Axis("W1 with more chat nodes in each region", "nodes", pairs.W1, pairs.run, (1, 2, 3)),
    "regions": Axis("W3 in more regions", "regions", pairs.W3, pairs.run, (2, 3, 4)),
    "members": Axis("W2's deliveries, in groups of other sizes", "members", groups.W2, groups.run, (5, 10, 50, 100)),
}


async def sweep(axis: Axis, say: Say) -> list[dict[str, Any]]:
    """A run for each value, without floors."""
    points = []
    for value in axis.values:
        say(f"{axis.field} = {value:,}")
        changed: dict[str, Any] = {axis.field: value}
        points.append({"x": value, **await axis.run(replace(axis.setup, **changed), {}, say)})
    return points


def main(argv: Sequence[str]) -> int:
    """Exit code 0 once it is written."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.sweep", description=__doc__)
    parser.add_argument("axis", choices=sorted(AXES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--values", type=int, nargs="+", help="in place of the axis's own")
    parser.add_argument("--seconds", type=float, default=10.0, help="measured, of each")
    given = parser.parse_args(argv)
    console = Console(highlight=False)
    found = AXES[given.axis]
    values = tuple(given.values or found.values)
    axis = found._replace(values=values, setup=replace(found.setup, seconds=given.seconds))
    console.print(axis.sentence)
    points = command.run(sweep(axis, console.print))
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"sweep-{given.axis}.json"
    path.write_text(json.dumps({"axis": given.axis, "field": axis.field, "title": axis.sentence, "points": points}))
    for point in points:
        shown = {name: point[name] for name in ("x", "deliveries_per_s", "server_cpu_us_per_delivery", "latency_ms")}
        result.show(console, f"{axis.field} = {point['x']:,}", shown)
    console.print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
