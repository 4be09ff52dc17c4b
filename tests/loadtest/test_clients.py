"""What generated clients count: latency from when a send was due, what was lost, what came twice."""

from __future__ import annotations

import asyncio
import json

import pytest

from loadtest import client as module
from loadtest.client import Client, Due, Shared, read_text, text_of
from loadtest.plan import ClientPlan, Tally, WorkerPlan

SCOPE = b"s" * 16


class Paper(Client):
    """A client whose node is the test: it takes what the window allows, and answers when told."""

    def __init__(self, shared: Shared, rate: float = 1.0) -> None:
        super().__init__(ClientPlan(3, "00" * 16, "", 1, "", [(7, SCOPE.hex())], rate), shared)
        self.under_way: list[Due] = []

    async def connect(self) -> None: ...

    async def close(self) -> None: ...

    def ended(self) -> list[asyncio.Task[None]]:
        return []

    def wake(self) -> None:
        while self.queue and self.room > 0:
            self.under_way.append(self.queue.popleft())
            self.left(self.under_way[-1])

    def answer(self) -> None:
        self.acked(self.under_way.pop(0))
        self.wake()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The monotonic clock in microseconds, which only the test moves."""
    found = {"us": 1_000}
    monkeypatch.setattr(module, "now_us", lambda: found["us"])
    return found


def shared(window: int) -> Shared:
    found = Shared(WorkerPlan("bare", [], "coalesced", window, 100, 0, []))
    found.span.last_us = 1 << 40
    return found


def test_a_send_that_waits_for_the_window_counts_from_when_it_was_due(clock: dict[str, int]) -> None:
    client = Paper(shared(window=1))
    client.offer(1_000)
    client.offer(2_000)
    clock["us"] = 51_000
    client.answer()
    clock["us"] = 61_000
    client.answer()
    histograms = client.shared.tally.histograms
    assert histograms["ack"].max == pytest.approx(59_000, rel=0.001)
    assert histograms["late"].max == pytest.approx(49_000, rel=0.001)


def test_the_longest_silence_is_that_of_a_client_with_something_to_send(clock: dict[str, int]) -> None:
    client = Paper(shared(window=16))
    client.offer(1_000)
    clock["us"] = 3_000
    client.answer()
    clock["us"] = 900_000  # nothing to send: no silence
    client.offer(900_000)
    clock["us"] = 907_000
    assert client.silence_us() == 7_000
    client.answer()
    clock["us"] = 2_000_000
    assert client.silence_us() == 7_000


def test_without_a_rate_the_window_is_kept_full(clock: dict[str, int]) -> None:
    client = Paper(shared(window=16), rate=0.0)
    client.fill()
    assert client.open == 0
    client.shared.span.sending = True
    client.fill()
    assert (client.open, len(client.under_way)) == (16, 16)
    client.answer()
    client.fill()
    assert client.open == 16


def test_a_message_says_what_it_is_amid_other_bytes(clock: dict[str, int]) -> None:
    text = text_of(1, 7, (3 << 24) + 5, 123_456_789, 100)
    assert len(text) == 100
    assert read_text(b"\x00#loa" + text.encode() + b"#load#") == (1, 7, (3 << 24) + 5, 123_456_789)
    assert read_text(b"receipts say nothing") is None


def test_what_was_lost_or_came_twice_is_found_across_processes(clock: dict[str, int]) -> None:
    sender, reader = Paper(shared(window=16)), Paper(shared(window=16))
    for _ in range(4):
        sender.offer(1_000)
    texts = [sender.text(due).encode() for due in sender.under_way]
    for _ in range(3):  # the last is not acknowledged, and may be lost
        sender.answer()
    for heard in (texts[0], texts[2], texts[2]):
        reader.heard(heard)
    total = Tally()
    for each in (sender, reader):
        total.merge(Tally.from_json(json.loads(json.dumps(each.shared.tally.to_json()))))
    assert total.lost({7: 1}) == 1
    assert total.doubled({7: 1}) == 1
