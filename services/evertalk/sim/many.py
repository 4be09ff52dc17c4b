"""Many seeds over a few processes: figures, failures, and the last line that says whether anything broke."""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from evertalk.sim.plan import plan_of
from evertalk.sim.run import run

_CHUNK = 4
_SWEEP = 16
_EVERY_S = 10.0

#: What is told of a run at its end: heading -> names in the counts.
RARE = {
    "new origin": "new origins",
    "gap healed by Export": "log: imported",
    "same message in two entries": "same message in two entries",
    "hedged send": "hedged sends",
    "dependency waited for": "log: entries wait for their parents",
    "dependency given up": "parents given up",
    "named hole passed": "log: hole passed",
    "hole filled": "log: hole filled",
    "region joined": "fault: join",
    "wait over 1 s for an acknowledgement": "waits over 1 s",
    "wait over 2 s": "waits over 2 s",
    "wait over 4 s": "waits over 4 s",
    "send refused for now": "sends refused for now",
    "session cut loose": "refused: SLOW_READER",
    "late message": "late shown",
    "gap told to a session": "gaps",
    "a mirror jumped": "log: a mirror jumps",
    "an origin folded": "log: an origin folds",
    "mirroring stopped at its cap": "log: mirroring stops: own stores hold a full mirror back",
}


@dataclass(slots=True)
class Tally:
    """Everything together."""

    seeds: int = 0
    failed: dict[int, list[str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    with_faults: int = 0


def _one(seed: int) -> tuple[int, list[str], Counter[str]]:
    if gc.isenabled():  # the first seed of this process
        gc.disable()  # a tenth of the time; what a run leaves behind goes every few seeds
        gc.collect()
        gc.freeze()  # what was imported stays
    outcome = run(plan_of(seed))
    if seed % _SWEEP == 0:
        gc.collect()
    return seed, outcome.violations, outcome.counts


def _results(seeds: Iterable[int], processes: int) -> Iterator[tuple[int, list[str], Counter[str]]]:
    if processes <= 1:
        yield from map(_one, seeds)
        return
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        yield from pool.imap(_one, seeds, _CHUNK)


def run_many(start: int, count: int, processes: int) -> Tally:
    """Run seeds `start` to `start + count - 1`, printing how it goes."""
    tally = Tally()
    began = told = time.monotonic()
    for seed, violations, counts in _results(range(start, start + count), processes):
        tally.seeds += 1
        tally.counts.update(counts)
        tally.with_faults += any(name.startswith("fault:") for name in counts)
        if violations:
            tally.failed[seed] = violations
            print(f"seed {seed}: {violations[0]}" + (f" (and {len(violations) - 1} more)" if violations[1:] else ""))
        now = time.monotonic()
        if now - told >= _EVERY_S:
            told = now
            print(f"{tally.seeds} of {count} seeds, {tally.seeds / (now - began):.1f} per second", flush=True)
    tell(tally, time.monotonic() - began)
    return tally


def tell(tally: Tally, seconds: float) -> None:
    """The figures, and the verdict last."""
    counts = tally.counts
    print(f"{tally.seeds / max(seconds, 1e-9):.1f} seeds per second; {tally.with_faults} of {tally.seeds} with faults")
    print(f"{counts['invoked']} sends, {counts['replicated']} replicated, {counts['delivered']} deliveries")
    for name in sorted(n for n in counts if n.startswith("fault: ")):
        print(f"  {counts[name]:7d} {name}")
    print(f"  {counts['faults passed over']:7d} faults passed over: the promises do not cover them where they fell")
    for heading, name in RARE.items():
        print(f"  {counts[name]:7d} {heading}")
    violations = sum(len(found) for found in tally.failed.values())
    if tally.failed:
        print(f"failing seeds: {' '.join(map(str, sorted(tally.failed)))}")
    print(f"{tally.seeds} seeds, {violations} violations")
