"""A guard against work that grows with what an input claims."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

MOST_CPU_S = 5.0
"""What is guarded takes half a second where it is slowest, and without its bound ten seconds to hours."""


@contextmanager
def little_work() -> Iterator[None]:
    """Fail where the block takes more CPU time than any sound reader would, on a slow and busy machine too."""
    started_s = time.process_time()
    yield
    taken_s = time.process_time() - started_s
    assert taken_s < MOST_CPU_S, f"it took {taken_s:.1f} s of CPU time"
