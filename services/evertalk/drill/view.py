"""What one sees while a drill runs: a live terminal view, or plain lines where there is no terminal."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

_PLAIN_EVERY_S = 5.0


@dataclass(slots=True)
class RegionView:
    """One region as it is now. away: the word for a region that serves nobody (DOWN, PAUSED …), else ""."""

    name: str
    away: str = ""
    serving: int = 0
    nodes: int = 0
    clients: int = 0


@dataclass(slots=True)
class Snapshot:
    """Everything the view shows. `phase` is one short sentence."""

    phase: str = "starting"
    at_s: float = 0.0
    total_s: float = 0.0
    regions: dict[str, RegionView] = field(default_factory=dict)
    clients: int = 0
    users: int = 0
    sends_per_s: float = 0.0
    acked: int = 0
    replicated: int = 0
    delivered: int = 0
    waiting: int = 0
    replication_ms: float | None = None


class View(Protocol):
    """Where a drill shows itself."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, now: Snapshot) -> None:
        """The present state; called a few times a second."""
        ...

    def say(self, line: str) -> None:
        """Something happened."""
        ...


def _figures(now: Snapshot) -> Mapping[str, str]:
    lag = "–" if now.replication_ms is None else f"{now.replication_ms:.0f} ms"
    return {
        "clients": f"{now.clients}/{now.users}",
        "sends/s": f"{now.sends_per_s:.0f}",
        "acked": f"{now.acked}",
        "replicated": f"{now.replicated}",
        "delivered": f"{now.delivered}",
        "in outboxes": f"{now.waiting}",
        "replication lag": lag,
    }


class PlainView:
    """One line every few seconds, and one for everything that happens."""

    def __init__(self) -> None:
        self._shown_s = -_PLAIN_EVERY_S

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, now: Snapshot) -> None:
        if now.at_s - self._shown_s < _PLAIN_EVERY_S:
            return
        self._shown_s = now.at_s
        regions = ", ".join(
            f"{r.name} {r.away or f'{r.serving}/{r.nodes} nodes, {r.clients} clients'}" for r in now.regions.values()
        )
        figures = ", ".join(f"{name} {value}" for name, value in _figures(now).items())
        print(f"{now.at_s:6.1f} s  {regions}; {figures}", flush=True)

    def say(self, line: str) -> None:
        print(line, flush=True)


class LiveView:
    """A panel that repaints in place, with the last things that happened below."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._live = Live(console=self._console, refresh_per_second=8, transient=False)
        self._now = Snapshot()
        self._said: deque[str] = deque(maxlen=9)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, now: Snapshot) -> None:
        self._now = now
        self._paint()

    def say(self, line: str) -> None:
        self._said.append(line)
        self._paint()

    def _paint(self) -> None:
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now = self._now
        regions = Table.grid(padding=(0, 3))
        for region in now.regions.values():
            state = (
                Text(f"✖ {region.away}", style="bold red")
                if region.away
                else Text("● up", style="green")
                if region.serving
                else Text("● starting", style="yellow")
            )
            regions.add_row(
                Text(region.name, style="bold"), state, f"{region.serving}/{region.nodes} nodes serving",
                f"{region.clients} clients",
            )  # fmt: skip
        figures = Table.grid(padding=(0, 3))
        values = _figures(now)
        figures.add_row(*(Text(name, style="dim") for name in values))
        figures.add_row(*(Text(value, style="bold") for value in values.values()))
        bar = ProgressBar(total=max(now.total_s, 0.001), completed=min(now.at_s, now.total_s), width=60)
        said = Text("\n".join(self._said), style="cyan")
        title = f"Evertalk drill · {now.at_s:.0f} s · {now.phase}"
        self._live.update(Panel(Group(regions, Text(), figures, Text(), bar, Text(), said), title=title))


def make_view(plain: bool = False) -> View:
    """A live view on a terminal, plain lines elsewhere or when asked for."""
    return PlainView() if plain or not sys.stdout.isatty() else LiveView()
