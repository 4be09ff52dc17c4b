"""What a session had been shown when it came, and how far this node lags behind that (R7, P3)."""

from __future__ import annotations

from collections.abc import Collection

from evertalk.core.model import Applied
from evertalk.core.vector import Key, Vector

#: What this node still lacks then may have burned: `have` must not stand still because of it.
LAG_S = 10.0


class Had:
    """The hello's `have`, where this node has less.

    A node that lags may pass a message before it knows why it is somebody's: its conversation, or who is in it. So
    markers stay below shards in which it lags; when it has caught up, a pass over the store brings what was left out.

    Args:
        have: of the hello; empty for a fresh session.
        reached: what this node has handed out.
        folded: origins of which nobody can have more.
        now_s: monotonic seconds.
    """

    def __init__(self, have: Vector, reached: Vector, folded: Collection[str], now_s: float) -> None:
        self._have = have
        self._until_s = now_s + LAG_S
        self._joined: set[bytes] = set()
        #: Shards of which this node had less when that was last looked at.
        self.lagging = self.lags(reached, folded, now_s)

    def lags(self, reached: Vector, folded: Collection[str], now_s: float) -> frozenset[int]:
        """Shards of which `reached` has less."""
        if now_s > self._until_s:
            return frozenset()
        return frozenset(k[1] for k, position in self._have if reached[k] < position and k[0] not in folded)

    def joined(self, scope: bytes) -> None:
        """A conversation took the account in, maybe again: what `have` had passed of it was not for it."""
        if self.lagging:
            self._joined.add(scope)

    def names(self, key: Key, position: int) -> bool:
        """True if `have` names it: no pass brings it."""
        return self._have.holds(*key, position)

    def was_shown(self, one: Applied) -> bool:
        """True if a copy of it was shown elsewhere: a token may have let go of it, so it must not come again."""
        have = self._have
        if not have or one.event.scope in self._joined:
            return False
        if have.holds(one.origin, one.shard, one.position):
            return True
        return bool(one.further) and any(have.holds(o, one.shard, p) for o, p in one.further)
