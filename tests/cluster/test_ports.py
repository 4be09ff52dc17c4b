"""The port of a process that was killed stays its cluster's: it starts again, and nobody may sit on it meanwhile."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from evertalk.cluster.ports import free_ports, port_is_free

_CODE = "from evertalk.cluster.ports import free_ports; print(*free_ports(300), flush=True); input()"


@contextmanager
def another_controller() -> Iterator[set[int]]:
    """The ports of a controller that runs meanwhile; nobody listens on them."""
    with subprocess.Popen(
        [sys.executable, "-c", _CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        yield set(map(int, other.stdout.readline().split()))
        other.kill()


def test_no_other_controller_is_given_the_port_of_a_dead_process() -> None:
    with ExitStack() as stack:
        given = [set(free_ports(300)), *(stack.enter_context(another_controller()) for _ in range(4))]
        assert len(set().union(*given)) == 5 * 300
        assert all(port_is_free(port) for port in given[1])


def test_a_port_is_given_again_only_after_all_the_others() -> None:
    first = free_ports(100)
    for _ in range(3):
        assert not {*first} & {*free_ports(100)}
