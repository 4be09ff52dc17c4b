"""Plots of what sweep.py, W7 and the soak wrote: python -m loadtest.plots DIR."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_SHARES = ("p50", "p99")
_HELD = {
    "rss_mb": "resident memory, MB",
    "fds": "open file descriptors",
    "tasks": "asyncio tasks",
    "redis_mb": "memory of Redis, MB",
}


def draw_sweep(path: Path) -> Path:
    """Cost and latency by what was varied; of `throughput`, latency by deliveries per second."""
    data = json.loads(path.read_text())
    points = data["points"]
    paced = data["field"] == "rate"
    x = [point["deliveries_per_s"] if paced else point["x"] for point in points]
    figure, (cost, latency) = plt.subplots(1, 2, figsize=(11, 4))
    cost.plot(x, [point["server_cpu_us_per_delivery"] for point in points], marker="o")
    cost.set(ylabel="server CPU per delivery, µs", ylim=(0, None))
    for share in _SHARES:
        latency.plot(x, [point["latency_ms"][share] for point in points], marker="o", label=share)
    latency.set(ylabel="latency in the same region, ms", yscale="log")
    latency.legend()
    for axes in (cost, latency):
        axes.set_xlabel("deliveries per second" if paced else data["field"])
        axes.grid(alpha=0.3)
    return _save(figure, data["title"], path.with_suffix(".png"))


def draw_history(path: Path) -> Path:
    """Time of a page by the length of the conversation."""
    pages: dict[str, Any] = json.loads(path.read_text())["page_ms"]
    figure, axes = plt.subplots(figsize=(6, 4))
    for name in ("newest", "older"):
        for share in _SHARES:
            values = [page[name][share] for page in pages.values()]
            axes.plot([int(size) for size in pages], values, marker="o", label=f"{name} {share}")
    axes.set(xscale="log", xlabel="messages in the conversation", ylabel="a page of 50, ms", ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    return _save(figure, "History", path.with_suffix(".png"))


def draw_soak(path: Path) -> Path:
    """What servers held over the messages sent; dotted: something was killed."""
    data = json.loads(path.read_text())
    figure, rows = plt.subplots(2, 2, figsize=(12, 8))
    for axes, (name, label) in zip(rows.flat, _HELD.items(), strict=True):
        for who, values in data["samples"][name].items():
            axes.plot(data["sent"], values, marker=".", label=who)
        for kill in data["kills"]:
            axes.axvline(kill["messages"], linestyle=":", color="grey", linewidth=0.8)
        axes.set(xlabel="messages", ylabel=label, ylim=(0, None))
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    return _save(figure, "Soak", path.with_suffix(".png"))


def _save(figure: Any, title: str, path: Path) -> Path:
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def main(argv: Sequence[str]) -> int:
    """Exit code 0 if there was something to draw."""
    where = Path(argv[0])
    drawn = [draw_sweep(path) for path in sorted(where.glob("sweep-*.json"))]
    drawn += [draw_history(path) for path in sorted(where.glob("w7*.json"))]
    drawn += [draw_soak(path) for path in sorted(where.glob("soak*.json"))]
    for path in drawn:
        print(path)
    if not drawn:
        print(f"there is no sweep-*, w7* or soak*.json in {where}: run python -m loadtest.sweep", file=sys.stderr)
    return 0 if drawn else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
