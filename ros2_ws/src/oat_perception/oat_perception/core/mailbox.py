"""Hold one image between the receiving and the inference thread; the newest one wins."""

from __future__ import annotations

import threading
import time
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class Mailbox(Generic[_Item]):
    """One slot between two threads. The newest item wins; what it replaced is counted."""

    def __init__(self) -> None:
        """Start open and empty."""
        self._condition = threading.Condition()
        self._item: _Item | None = None
        self._closed = False
        self.num_dropped = 0

    def put(self, item: _Item) -> None:
        """Put an item in. It replaces an item that nobody took."""
        with self._condition:
            self.num_dropped += self._item is not None
            self._item = item
            self._condition.notify()

    def take(self, *, not_before_s: float = 0.0) -> _Item | None:
        """Wait for an item, at least until `not_before_s` (`time.monotonic`); return None once the box is closed."""
        with self._condition:
            while not self._closed:
                early_s = not_before_s - time.monotonic()
                if self._item is not None and early_s <= 0:
                    item, self._item = self._item, None
                    return item
                self._condition.wait(early_s if early_s > 0 else None)
            return None

    def close(self) -> None:
        """Close the box, and release the waiting thread."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
