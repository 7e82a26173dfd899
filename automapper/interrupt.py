"""Ctrl-C without losing what was found."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupt_held_back() -> Iterator[list[bool]]:
    """Let the block finish whatever Ctrl-C says; the list it yields is empty unless Ctrl-C came meanwhile.

    Off the main thread, where signals cannot be handled, it does nothing.
    """
    came: list[bool] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)
