"""Who talks with whom, and what is said next: a seeded, open-loop plan of simulated people's traffic."""

from __future__ import annotations

import random
from dataclasses import dataclass

_NAMES = """
minjun seojun doyun siwoo juwon hajun jiho jihu junseo yejun
seoyeon seoyun jiwoo seohyun haeun jimin sua jiyoo chaewon yuna
ada bela cleo dora emil fritz greta hugo ida jonas
kira lars mila nora otto pia quinn rosa sven tilda
""".split()  # noqa: SIM905

_WORDS = """
ok see you at the station ten minutes late coffee first did you get the parcel call me when home
네 지금 가고 있어요 조금 늦을 것 같아요 내일 봐요 밥 먹었어? 고마워 잘 자
""".split()  # noqa: SIM905


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation to be made: who is in it, by index; the first one makes it."""

    title: str  # empty: direct
    people: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """One thing to be said. `what`: message | reply | edit | react | delete; what has nothing to act on becomes a
    message."""

    at_s: float
    talk: int
    person: int
    what: str
    text: str


def name_of(index: int) -> str:
    """A person's handle, different for every index."""
    name = _NAMES[index % len(_NAMES)]
    return name if index < len(_NAMES) else f"{name}{index // len(_NAMES) + 1}"


def talks(users: int, seed: int) -> list[Talk]:
    """Conversations among `users` people: everybody in one direct pair, and groups of 3 to 8, across regions."""
    rng = random.Random(f"talks/{seed}")
    order = list(range(users))
    rng.shuffle(order)
    found = [Talk("", (order[i], order[i + 1])) for i in range(0, users - 1, 2)]
    if users % 2 and users > 2:
        found.append(Talk("", (order[-1], order[0])))
    for number in range(max(1, users // 5)):
        size = min(users, rng.randint(3, 8))
        if size >= 2:
            found.append(Talk(f"group {number + 1}", tuple(rng.sample(range(users), size))))
    return found


def turns(plan: list[Talk], rate: float, seconds: float, seed: int) -> list[Turn]:
    """What is said when: arrivals at `rate` per second (Poisson), independent of any answer."""
    rng = random.Random(f"turns/{seed}")
    found: list[Turn] = []
    at = 0.0
    while True:
        at += rng.expovariate(rate)
        if at >= seconds:
            return found
        talk = rng.randrange(len(plan))
        what = rng.choices(("message", "reply", "edit", "react", "delete"), (74, 18, 3, 4, 1))[0]
        text = " ".join(rng.choices(_WORDS, k=rng.randint(2, 12)))
        found.append(Turn(at, talk, rng.choice(plan[talk].people), what, f"{text} #{len(found)}"))
