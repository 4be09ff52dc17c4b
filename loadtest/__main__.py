"""python -m loadtest WORKLOAD --out DIR: run one and write DIR/WORKLOAD.json."""

from __future__ import annotations

import argparse
import resource
import shlex
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from evertalk.core.errors import EvertalkError
from loadtest import command, faults, floors, groups, history, idle, pairs, result, soak
from loadtest.bench import Say, Setup
from loadtest.fleet import LoadFailed
from loadtest.result import Figures
from loadtest.seeding import SeedingFailed

Run = Callable[[Setup, Mapping[str, float], Say], Awaitable[Figures]]
_NUMBERS = ("regions", "nodes", "users", "members", "history", "samples", "processes", "window", "size", "seed")
_FLOOR_S = 2.0
_ENTRY_BYTES = 120  # what a message weighs besides its text: ids, stamp, needs


class Workload(NamedTuple):
    """What a workload is."""

    sentence: str
    setup: Setup
    run: Run


WORKLOADS = {
    "w1": Workload("50 pairs, as fast as 16 unacknowledged sends each allow", pairs.W1, pairs.run),
    "w2": Workload("four groups of 50, 2,000 deliveries a second", groups.W2, groups.run),
    "w3": Workload("50 pairs, 200 messages a second", pairs.W3, pairs.run),
    "w4": Workload("w3 on the SDK, with a region killed, then one stopped", faults.W4, faults.run),
    "w5": Workload("1,000 clients at rest", idle.W5, idle.rest),
    "w6": Workload("2,000 clients come back at once while others talk", idle.W6, idle.stampede),
    "w7": Workload("pages of conversations of 1,000 to a million messages", history.W7, history.run),
    "soak": Workload("two hours' messages with processes killed: what grows", soak.SOAK, soak.run),
}


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=__doc__)
    kinds = parser.add_subparsers(dest="workload", required=True)
    for name, workload in WORKLOADS.items():
        one = kinds.add_parser(name, help=workload.sentence, description=workload.sentence)
        one.add_argument("--out", type=Path, required=True, help="directory for NAME.json")
        one.add_argument("--name", default=name, help="of the file, without .json")
        one.add_argument("--runs", type=int, default=1, help="each on a new cluster; medians are told")
        one.add_argument("--no-floors", action="store_true", help="do not measure the bare hops")
        for option in _NUMBERS:
            one.add_argument(f"--{option}", type=int, default=getattr(workload.setup, option))
        for option in ("rate", "warm-s", "seconds", "delay-ms"):
            one.add_argument(f"--{option}", type=float, default=getattr(workload.setup, option.replace("-", "_")))
        one.add_argument("--generator", choices=("bare", "sdk"), default=workload.setup.generator)
        one.add_argument("--frames", choices=("coalesced", "single"), default=workload.setup.frames)
    return parser.parse_args(argv)


async def _runs(workload: Workload, setup: Setup, runs: int, with_floors: bool, say: Say) -> list[Figures]:
    found = []
    for number in range(runs):
        bare: dict[str, float] = {}
        if with_floors:
            say("measuring the bare hops")
            bare = await floors.measure(_FLOOR_S, setup.size + _ENTRY_BYTES, setup.users, setup.rate)
        found.append(await workload.run(replace(setup, seed=setup.seed + number), bare, say))
    return found


def main(argv: Sequence[str]) -> int:
    """Exit code 0 if it ran, 1 with a sentence if not, or if a soak lost or doubled anything."""
    given = _arguments(argv)
    console = Console(highlight=False)
    workload = WORKLOADS[given.workload]
    names = {field.name for field in fields(Setup)}
    setup = replace(workload.setup, **{name: value for name, value in vars(given).items() if name in names})
    console.print(f"{given.workload}: {workload.sentence}")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection is a file; children inherit it
    try:
        found = command.run(_runs(workload, setup, given.runs, not given.no_floors, console.print))
    except (EvertalkError, LoadFailed, SeedingFailed, OSError) as error:
        console.print(f"{given.workload} failed: {error}", markup=False, style="red")
        return 1
    said = shlex.join(["python", "-m", "loadtest", *argv])
    path = given.out / f"{given.name}.json"
    whole = result.write(path, given.workload, said, found)
    result.show(console, f"{given.workload}, medians of {given.runs}", whole)
    console.print(f"written to {path}")
    if "verdict" not in whole:
        return 0
    console.print(whole["verdict"], markup=False)
    return int(any(run["lost"] or run["doubled"] for run in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
