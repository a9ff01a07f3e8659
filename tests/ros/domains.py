"""ROS domains that no other test run on this machine uses: workers beside this one, other checkouts, other users."""

from __future__ import annotations

import functools
import itertools
import socket
from collections.abc import Iterator

_NUM_DOMAINS = 99  # from 1 on; above 101, DDS ports meet the ephemeral ones
_AT_A_TIME = 33  # a module's shared graph lives as long as its tests, so domains must not come back before that


def next_domain() -> int:
    """Return a domain of this process, another one than the last time: a graph that ended may still be announced."""
    return next(_claimed()[0])


@functools.cache
def _claimed() -> tuple[Iterator[int], socket.socket]:
    """Claim a third of the domains until this process ends: two graphs in one domain would answer each other."""
    for first in range(1, _NUM_DOMAINS + 1, _AT_A_TIME):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0oat-robot-test-domains-{first}")
        except OSError:
            claim.close()
            continue
        return itertools.cycle(range(first, first + _AT_A_TIME)), claim
    raise RuntimeError(f"expected at most {_NUM_DOMAINS // _AT_A_TIME} processes that test the graph, got one more")
