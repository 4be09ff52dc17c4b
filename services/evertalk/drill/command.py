"""What `evertalk demo` and `evertalk drill …` do: plan a run, show it, print the verdict."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from evertalk.cluster import drivers
from evertalk.core.errors import EvertalkError
from evertalk.core.history import HistoryDamaged
from evertalk.core.transcript import Transcript, UnknownTranscript, decode, parse
from evertalk.drill import summary, table
from evertalk.drill.certificate import CertificateError, verify
from evertalk.drill.drills import DRILLS
from evertalk.drill.plan import Drill, DrillFailed, Plan
from evertalk.drill.replay import check_playable
from evertalk.drill.run import Run
from evertalk.drill.view import make_view

_REPORTS = Path("reports")
_ALL = "all"
THIRD = ("jeju",)  # joins for drills that need a third region, when all are run


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line asks for. `seconds` None: each drill's own; `seed` 0: a new one."""

    out: Path | None = None
    users: int = 40
    rate: float = 200.0
    seconds: float | None = None
    seed: int = 0
    driver: str = "process"
    regions: tuple[str, ...] = ("seoul", "busan")
    lose_disks: bool = False
    transcript: Path | None = None
    plain: bool = False
    times: int = 1


async def run_drill(name: str, wishes: Wishes) -> int:
    """Run a drill (or `all`), once or with seeds in a row, and print what came of it; 0 only if all is `held`.

    Raises:
        DrillFailed: the wishes make no sense, or a single drill did not come to its end.
    """
    drills = _chosen(name, wishes)
    seed = wishes.seed or random.SystemRandom().randrange(1, 1_000_000)
    where = (wishes.out or _REPORTS / f"{datetime.now().astimezone():%Y%m%d-%H%M%S}-{name}").absolute()
    if where.exists() and (not where.is_dir() or any(where.iterdir())):
        raise DrillFailed(f"{where} exists and is not an empty folder: choose another for the report")
    played = _read(wishes.transcript) if wishes.transcript else None
    plans = [_plan(drill, wishes, where / drill.name if name == _ALL else where, seed, played) for drill in drills]
    if name == _ALL:
        return await _run_all(plans, wishes)
    if wishes.times > 1:
        return await _run_often(plans[0], wishes.times, wishes.plain)
    certificate = await _run_once(plans[0], wishes.plain)
    print_certificate(certificate)
    print(f"\nreport: {where}\ncheck it: {sys.argv[0]} drill verify {where}")
    return 0 if certificate["verdict"] == "held" else 1


def _chosen(name: str, wishes: Wishes) -> list[Drill]:
    if name != _ALL and name not in DRILLS:
        raise DrillFailed(f"there is no drill {name!r}; there are: {_ALL}, {', '.join(DRILLS)}")
    if wishes.driver not in drivers.NAMES:
        raise DrillFailed(f"there is no driver {wishes.driver!r}; there are: {', '.join(drivers.NAMES)}")
    if wishes.users < 2 or wishes.rate <= 0 or (wishes.seconds is not None and wishes.seconds <= 0):
        raise DrillFailed("a drill needs at least 2 users, and a rate and a length above 0")
    if wishes.times < 1:
        raise DrillFailed("a drill is run at least once")
    return list(DRILLS.values()) if name == _ALL else [DRILLS[name]]


def _plan(drill: Drill, wishes: Wishes, out: Path, seed: int, played: Transcript | None) -> Plan:
    return Plan(
        drill,
        out,
        wishes.users,
        wishes.rate,
        drill.seconds if wishes.seconds is None else wishes.seconds,
        seed,
        wishes.lose_disks,
        played,
        wishes.regions,
        driver=wishes.driver,
    )


async def _run_all(plans: Sequence[Plan], wishes: Wishes) -> int:
    """Every drill that the driver can do, each as often as asked; one table at the end."""
    found: list[dict[str, Any]] = []
    failures: list[table.Failure] = []
    for plan in plans:
        missing = THIRD[: max(0, plan.drill.regions - len(plan.regions))]
        for seed in range(plan.seed, plan.seed + wishes.times):
            one = replace(plan, seed=seed, out=plan.out / str(seed), regions=(*plan.regions, *missing))
            try:
                found.append(await _run_once(one, wishes.plain))
                print(f"{plan.drill.name}: {summary.line(found[-1])}", flush=True)
            except EvertalkError as error:
                failures.append(table.Failure(plan.drill.name, plan.driver, str(error)))
                print(f"{plan.drill.name}: seed {seed} did not come to its end: {error}", flush=True)
    table.show(table.rows(found, failures))
    print(f"reports: {plans[0].out.parent}")
    return 0 if not failures and all(c["verdict"] == "held" for c in found) else 1


async def run_table(directories: Sequence[Path]) -> int:
    """Print the Markdown table of all certificates in or below these directories.

    Raises:
        CertificateError: there is none, or one does not say what its history says.
    """
    print("\n".join(table.markdown(table.rows(table.find(directories)))))
    return 0


async def _run_once(plan: Plan, plain: bool) -> dict[str, Any]:
    with make_view(plain) as view, _ctrl_c():
        certificate = await Run(plan, view).execute()
    if certificate["verdict"] == "held" and all(limit["within"] for limit in certificate["limits"]):
        shutil.rmtree(plan.out / "cluster", ignore_errors=True)  # else somebody will want to look into the logs
    return certificate


async def _run_often(plan: Plan, times: int, plain: bool) -> int:
    """One line a run, then the whole of them; each has its report in a folder of its own."""
    found: list[dict[str, Any]] = []
    for seed in range(plan.seed, plan.seed + times):
        found.append(await _run_once(replace(plan, seed=seed, out=plan.out / str(seed)), plain))
        print(summary.line(found[-1]), flush=True)
    print("\n".join(["", *(summary.line(c) for c in found), "", *summary.whole(found)]))
    print(f"reports: {plan.out}")
    return 0 if all(c["verdict"] == "held" for c in found) else 1


class _ctrl_c:
    """SIGTERM ends a drill as Ctrl-C does, so that nothing is left behind."""

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)

    def __exit__(self, *exc: object) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)


def _read(path: Path) -> Transcript:
    try:
        found = parse(decode(path.read_bytes()))
    except OSError as error:
        raise DrillFailed(f"{path} cannot be read: {error.strerror}") from error
    except UnknownTranscript as error:
        raise DrillFailed(f"{path}: {error}") from error
    check_playable(found)
    return found


def print_certificate(certificate: dict[str, Any]) -> None:
    """The verdict for people: counts, violations, times beside their limits."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    counts, violations, rpo = certificate["counts"], certificate["violations"], certificate["rpo"]
    console.print()
    console.print(f"drill {certificate['drill']}, seed {certificate['seed']}, commit {certificate['commit']}")
    console.print("sends:      " + ", ".join(f"{counts[k]} {k}" for k in counts))
    if left := counts["accepted"] - counts["replicated"]:
        console.print(f"            {left} accepted ones had no second region when their sender left for good")
    console.print("violations: " + ", ".join(f"{violations[k]} {k.replace('_', ' ')}" for k in violations))
    console.print(
        f"RPO:        {rpo['replicated_messages']} replicated messages lost; {rpo['accepted_messages']} accepted ones "
        f"were only in the region when it died ({rpo['accepted_seconds']:.2f} s of them): outboxes brought them again"
    )
    table = Table("what", "p50", "p99", "max", title="milliseconds")
    for label, key in (
        ("longest gap without an acknowledged send, per client", "gap_ms"),
        ("delivery, send to shown", "delivery_ms"),
        ("replication, accepted to replicated", "replication_ms"),
    ):
        table.add_row(label, *(_ms(certificate[key][p]) for p in ("p50", "p99", "max")))
    console.print(table)
    limits = Table("limit", "measured", "limit", "within")
    for limit in certificate["limits"]:
        mark = "[green]yes[/green]" if limit["within"] else "[red]no[/red]"
        limits.add_row(limit["name"], _ms(limit["measured"]), _ms(limit["limit"]), mark)
    console.print(limits)
    colour = "green" if certificate["verdict"] == "held" else "red"
    console.print(f"verdict: [bold {colour}]{certificate['verdict']}[/bold {colour}]")
    for reason in certificate["reasons"]:
        console.print(f"  {reason}", markup=False)


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"


def run_verify(directory: Path) -> int:
    """Recompute from the history alone; 0 only if everything agrees."""
    try:
        differences = verify(directory)
    except (CertificateError, HistoryDamaged, EvertalkError) as error:
        print(f"evertalk: {error}")
        return 1
    for difference in differences:
        print(difference)
    if differences:
        print(f"{len(differences)} differences: do not trust this certificate")
        return 1
    print("the certificate says what the history says, and is signed by the key it names")
    return 0
