"""What a generator process is told and what it tells: plain data that goes through pipes as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from loadtest.histogram import Histogram

Frames = Literal["coalesced", "single"]
Generator = Literal["bare", "sdk", "crowd"]


@dataclass(frozen=True, slots=True)
class ClientPlan:
    """One client.

    Args:
        number: no other client's of the run.
        account: hex; token: its access token.
        region: number of its region; latencies are kept apart by it.
        address: the node that it uses (an SDK client: first).
        talks: (number, conversation id in hex) of those that it sends to, in turn; none: it only listens.
        rate: sends per second, at random times; 0: as fast as the window allows.
    """

    number: int
    account: str
    token: str
    region: int
    address: str
    talks: list[tuple[int, str]] = field(default_factory=list)
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """One generator process.

    Args:
        frames: "coalesced": what is due goes as one frame; "single": one send a frame.
        window: sends without an acknowledgement, per client.
        size: bytes of a message's text.
        endpoints: (region, address) of all nodes, for SDK clients.
        at_once: clients that connect side by side.
    """

    generator: Generator
    clients: list[ClientPlan]
    frames: Frames
    window: int
    size: int
    seed: int
    endpoints: list[tuple[str, str]]
    at_once: int = 50

    def to_json(self) -> dict[str, Any]:
        """For the pipe."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> WorkerPlan:
        """What `to_json` made."""
        clients = [ClientPlan(**{**each, "talks": [tuple(t) for t in each["talks"]]}) for each in data.pop("clients")]
        endpoints = [(region, address) for region, address in data.pop("endpoints")]
        return WorkerPlan(clients=clients, endpoints=endpoints, **data)


HISTOGRAMS = ("same", "other", "ack", "late", "gap")


@dataclass(slots=True)
class Tally:
    """What clients have seen; of one process, or merged.

    `counts`: of the measured time: sent, acked, heard, frames_out, frames_in, bytes_out, bytes_in; refused: ever.
    Histograms, microseconds: from the intended time of a send to its arrival in the same or
    the other region, to its acknowledgement, to its leaving the generator ("late"); and "gap": each client's longest
    time without an acknowledgement while it had something to send.
    `acked`, `heard`: numbers of sends by conversation; heard counts every reader.
    """

    counts: Counter[str] = field(default_factory=Counter)
    histograms: dict[str, Histogram] = field(default_factory=lambda: {name: Histogram() for name in HISTOGRAMS})
    acked: dict[int, set[int]] = field(default_factory=dict)
    heard: dict[int, Counter[int]] = field(default_factory=dict)

    def merge(self, other: Tally) -> None:
        """Add another's."""
        self.counts += other.counts
        for name, histogram in other.histograms.items():
            self.histograms[name].merge(histogram)
        for talk, numbers in other.acked.items():
            self.acked.setdefault(talk, set()).update(numbers)
        for talk, counted in other.heard.items():
            self.heard.setdefault(talk, Counter()).update(counted)

    def lost(self, readers: Mapping[int, int]) -> int:
        """Acknowledged sends that some of a conversation's readers (their number by conversation) never heard."""
        return sum(
            max(0, readers[talk] - self.heard.get(talk, Counter())[number])
            for talk, numbers in self.acked.items()
            for number in numbers
        )

    def doubled(self, readers: Mapping[int, int]) -> int:
        """Messages that came to a reader more than once."""
        return sum(max(0, times - readers[talk]) for talk, counted in self.heard.items() for times in counted.values())

    def to_json(self) -> dict[str, Any]:
        """For the pipe."""
        return {
            "counts": dict(self.counts),
            "histograms": {name: histogram.to_json() for name, histogram in self.histograms.items()},
            "acked": {talk: _ranges(numbers) for talk, numbers in self.acked.items()},
            "heard": {
                talk: {
                    times: _ranges(number for number, n in counted.items() if n == times)
                    for times in set(counted.values())
                }
                for talk, counted in self.heard.items()
            },
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Tally:
        """What `to_json` made."""
        heard: dict[int, Counter[int]] = {}
        for talk, by_times in data["heard"].items():
            counted = heard.setdefault(int(talk), Counter())
            for times, ranges in by_times.items():
                counted.update(dict.fromkeys(_numbers(ranges), int(times)))
        return Tally(
            Counter(data["counts"]),
            {name: Histogram.from_json(each) for name, each in data["histograms"].items()},
            {int(talk): set(_numbers(ranges)) for talk, ranges in data["acked"].items()},
            heard,
        )


def _ranges(numbers: Iterable[int]) -> list[list[int]]:
    """[[first, last], …] of whole numbers."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def _numbers(ranges: Iterable[Iterable[int]]) -> Iterable[int]:
    for first, last in ranges:
        yield from range(first, last + 1)
