"""The newest image wins, and what it replaced is counted."""

from __future__ import annotations

import threading
import time

from oat_perception.core.mailbox import Mailbox


def test_mailbox_keeps_the_newest_and_counts_the_rest() -> None:
    box: Mailbox[int] = Mailbox()
    for item in range(5):
        box.put(item)
    assert (box.take(), box.num_dropped) == (4, 4)
    box.put(5)
    started_s = time.monotonic()
    threading.Timer(0.02, box.put, [6]).start()
    assert box.take(not_before_s=started_s + 0.1) == 6, "the newest at the time it may be taken"
    assert time.monotonic() - started_s >= 0.1
    threading.Timer(0.02, box.close).start()
    assert box.take() is None
