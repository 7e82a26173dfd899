"""Ctrl-C and SIGTERM without losing what was found."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

BOTH = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupt_held_back() -> Iterator[list[bool]]:
    """Let the block finish whatever Ctrl-C says; the list it yields is empty unless Ctrl-C, or SIGTERM, came meanwhile.

    Off the main thread, where signals cannot be handled, it does nothing.
    """
    came: list[bool] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.signal(number, lambda *_: came.append(True)) for number in BOTH}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Within it SIGTERM is what Ctrl-C is: KeyboardInterrupt, which ends a search with the best so far."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
