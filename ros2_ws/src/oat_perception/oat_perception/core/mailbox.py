"""Hold one image between the receiving and the inference thread; the newest one wins."""

from __future__ import annotations

import threading
import time
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class Mailbox(Generic[_Item]):
    """One slot between two threads. The newest item wins; what it replaced is counted.

    Attributes:
        not_before_s: nothing is taken before this moment (`time.monotonic`). The taking thread sets it.
        num_dropped: items that were replaced because the taking thread was busy.
        num_skipped: items that were replaced before `not_before_s`, so that no thread would have taken them.
    """

    def __init__(self) -> None:
        """Start open and empty."""
        self._condition = threading.Condition()
        self._item: _Item | None = None
        self._closed = self._released = False
        self.not_before_s = 0.0
        self.num_dropped = self.num_skipped = 0

    def put(self, item: _Item) -> None:
        """Put an item in. It replaces an item that nobody took."""
        with self._condition:
            if self._item is not None:
                if time.monotonic() < self.not_before_s:
                    self.num_skipped += 1
                else:
                    self.num_dropped += 1
            self._item = item
            self._condition.notify()

    def take(self) -> _Item | None:
        """Wait for an item, at least until `not_before_s`; return None once the box is closed."""
        with self._condition:
            while not self._closed:
                early_s = self.not_before_s - time.monotonic()
                if self._item is not None and early_s <= 0:
                    item, self._item = self._item, None
                    return item
                self._condition.wait(early_s if early_s > 0 else None)
            self._released = True
            return None

    def close(self) -> None:
        """Close the box, and release the waiting thread."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def reopen(self) -> bool:
        """Open a closed box again; False, and it stays closed, if a thread was released and takes nothing any more."""
        with self._condition:
            self._closed = self._released
            return not self._closed
