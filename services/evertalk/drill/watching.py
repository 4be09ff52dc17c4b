"""Watches a run: what the view shows a few times a second, and the gauges of memory and of Redis's streams."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from evertalk.cluster.verbs import Cluster
from evertalk.console.status import Operator
from evertalk.drill import bounds
from evertalk.drill.crowd import Crowd
from evertalk.drill.faults import Faults
from evertalk.drill.plan import DrillFailed
from evertalk.drill.recorder import Recorder
from evertalk.drill.view import RegionView, Snapshot, View

_SHOW_S = 0.25
_GAUGE_S = 2.0
_ARRIVING_S = 10.0  # what the people's arrival may take, for the progress bar


class Watching:
    """Two loops, `show` and `measure`, that run until cancelled.

    Args:
        began: monotonic time at which the run began.
    """

    def __init__(
        self,
        view: View,
        cluster: Cluster,
        crowd: Crowd,
        faults: Faults,
        operator: Operator,
        recorder: Recorder,
        began: float,
    ) -> None:
        self.phase = "people arrive"
        self.gauges: list[bounds.Gauge] = []
        self.load_began = 0.0
        self._view = view
        self._cluster = cluster
        self._crowd = crowd
        self._faults = faults
        self._operator = operator
        self._recorder = recorder
        self._began = began

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    async def show(self) -> None:
        """Keep the view up to date."""
        seen: deque[tuple[float, int]] = deque(maxlen=12)
        while True:
            seen.append((self.now(), self._crowd.tally.invoked))
            span = seen[-1][0] - seen[0][0]
            self._view.show(self._snapshot((seen[-1][1] - seen[0][1]) / span if span else 0.0))
            await asyncio.sleep(_SHOW_S)

    def _snapshot(self, sends_per_s: float) -> Snapshot:
        crowd, plan = self._crowd, self._crowd.plan
        tally, lag = crowd.tally, crowd.tally.replication_ms
        return Snapshot(
            self.phase,
            self.now(),
            plan.seconds + (self.load_began - self._began if self.load_began else _ARRIVING_S),
            {name: self._region(name) for name in plan.regions},
            sum(1 for p in crowd.people if p.where),
            len(crowd.people),
            sends_per_s,
            tally.accepted,
            tally.replicated,
            tally.delivered,
            crowd.open,
            sum(lag) / len(lag) if lag else None,
        )

    def _region(self, name: str) -> RegionView:
        nodes = self._cluster.region(name).nodes.values()
        up = sum(1 for node in nodes if node.alive)
        away = self._faults.away.get(name, "" if up else "DOWN")
        clients = sum(1 for p in self._crowd.people if p.where == name)
        return RegionView(name, away, 0 if away else up, len(nodes), clients)

    async def measure(self) -> None:
        """Take the gauges every two seconds."""
        while True:
            for name, rss in self._cluster.rss().items():
                if rss is not None:
                    self._note("rss_bytes", rss, name)
            look = await self._operator.ask_all()
            for region in self._crowd.plan.regions:
                answer = next((a for a in look.answers.values() if a.region == region and a.log_reachable), None)
                if answer is not None:
                    streams = answer.streams
                    self._note("stream_bytes_max", max((s.bytes for s in streams), default=0), region)
                    self._note("stream_bytes_all", sum(s.bytes for s in streams), region)
            await asyncio.sleep(_GAUGE_S)

    def _note(self, name: str, value: float, target: str) -> None:
        self._recorder.record_gauge(name, value, target)
        self.gauges.append(bounds.Gauge(self.now(), name, value, target))

    def must_be_bounded(self, cap: int, say: Callable[[str], None]) -> None:
        """No stream may have grown beyond its cap, and no process much in the second half of the load (P8).

        Raises:
            DrillFailed
        """
        grown = bounds.grown(self.gauges, self.load_began - self._began, self.now())
        for name, (half, end) in grown.items():
            say(f"memory of {name}: {half / 1e6:.1f} MB at half time, {end / 1e6:.1f} MB at the end")
        largest = bounds.largest_stream(self.gauges)
        say(f"largest stream of any Redis: {largest / 1024:.0f} KB, its cap is {cap / 1024:.0f} KB")
        if wrong := bounds.wrong(grown, largest, cap):
            raise DrillFailed(wrong)
