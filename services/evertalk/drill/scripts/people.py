"""Drills about people who move: drained regions and home again, and thousands who return at once."""

from __future__ import annotations

from evertalk.drill.plan import Drill
from evertalk.drill.run import Run
from evertalk.drill.stampede import Stampede

HERD = 2_000
_LISTENERS = 20
_ALL_S = 120.0
_CALL = "is everybody here?"


async def _drain_and_home(run: Run) -> None:
    """The first region is stopped in order and returns; then its people come home (30 to 60 s)."""
    home = run.regions[0]
    await run.until(0.1)
    await run.faults.stop_region(home)
    run.must_be_elsewhere(home)
    await run.until(0.2)
    await run.faults.return_region(home)
    await run.until_home(home)


async def _stampede(run: Run) -> None:
    """The first region serves a herd of listeners as well, and dies: all of them go elsewhere at once."""
    home = run.regions[0]
    # Twenty accounts with a hundred devices each: passwords would have to be hashed for more of them.
    listeners = await run.crowd.register_more(_LISTENERS)
    host = next(p for p in run.crowd.people if p.region != home)
    room = await run.crowd.make_group(host, "roll call", [each.account for each in listeners])
    async with Stampede(run.crowd.endpoints, home, [each.token for each in listeners] * (HERD // _LISTENERS)) as herd:
        since = run.now()
        await herd.until(lambda: not herd.served[""] and sum(herd.served.values()) == HERD, _ALL_S, "all are served")
        run.say(f"{HERD} more clients are served, {run.now() - since:.1f} s after they began to come")
        await run.until(0.5)
        await run.faults.kill_region(home)
        since = run.now()
        await host.client.post(room, _CALL)
        await herd.until(lambda: not herd.served[""] and not herd.served[home], _ALL_S, "all are served elsewhere")
        run.note("stampede_served_s", run.now() - since, home)
        run.say(f"all {HERD} are served elsewhere, {run.now() - since:.1f} s after the region died")
        await herd.until(lambda: herd.heard[_CALL] == HERD, _ALL_S, "all have heard what was said meanwhile")
        run.note("stampede_heard_s", run.now() - since, home)
        run.say(f"all {HERD} have heard what was said meanwhile, after {run.now() - since:.1f} s")
        await run.until(0.85)
        await run.faults.return_region(home)


DRILLS = (
    Drill(
        "stampede",
        f"one region, by SIGKILL, with {HERD} clients more than usual, who all go elsewhere at once",
        "everybody is served again and hears what was said meanwhile; other people go on within a second",
        _stampede,
        seconds=100.0,
    ),
    Drill(
        "drain-and-home",
        "one region is drained, stopped, and returns",
        "its people are handed over without losing an acknowledgement, and all come home, one by one",
        _drain_and_home,
        seconds=80.0,
        converged_s=120.0,  # they talk on for most of it
    ),
)
