"""The newest image wins, and what it replaced is counted: as overload, or as left out by the rate."""

from __future__ import annotations

import threading
import time

from oat_perception.core.mailbox import Mailbox


def test_mailbox_keeps_the_newest_and_counts_the_rest() -> None:
    box: Mailbox[int] = Mailbox()
    for item in range(5):
        box.put(item)
    assert (box.take(), box.num_dropped, box.num_skipped) == (4, 4, 0)
    taken: list[int | None] = []
    box.not_before_s = time.monotonic() + 3600.0
    thread = threading.Thread(target=lambda: taken.append(box.take()))
    thread.start()
    for item in (5, 6):
        box.put(item)
    time.sleep(0.02)
    assert not taken, "nothing is taken before its time"
    box.not_before_s = 0.0
    box.put(7)
    thread.join(60.0)
    assert taken == [7], "the newest at the time it may be taken"
    due_s = box.not_before_s = time.monotonic() + 0.1
    box.put(8)
    assert box.take() == 8
    assert time.monotonic() >= due_s
    threading.Timer(0.02, box.close).start()
    assert box.take() is None


def test_what_the_rate_leaves_out_is_no_overload() -> None:
    box: Mailbox[int] = Mailbox()
    box.not_before_s = time.monotonic() + 60.0
    for item in range(5):
        box.put(item)
    assert (box.num_dropped, box.num_skipped) == (0, 4)
    box.not_before_s = 0.0
    box.put(5)
    assert (box.take(), box.num_dropped, box.num_skipped) == (5, 1, 4)


def test_a_box_opens_again_as_long_as_the_taking_thread_was_not_told_of_the_end() -> None:
    box: Mailbox[int] = Mailbox()
    box.close()
    assert box.reopen()
    box.put(1)
    assert box.take() == 1, "it goes on as before"
    box.close()
    assert box.take() is None
    assert not box.reopen(), "who takes is gone"
    assert box.take() is None
