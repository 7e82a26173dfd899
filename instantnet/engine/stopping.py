"""Ctrl-C (SIGINT) and SIGTERM as a request: the run finishes its step, saves, and prints how to resume."""

import os
import signal
import threading
from typing import Any

from instantnet.engine.errors import Stopped


class StopRequest:
    """In this context the first SIGINT or SIGTERM is only recorded, in `signal`; a second one raises `Stopped` at once.

    Outside the main thread, where signals cannot be handled, it does nothing. says: whether to print a line.
    """

    def __init__(self, says: bool = True) -> None:
        self._says = says
        self.signal: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        if self.signal is not None:
            raise Stopped(number)
        self.signal = signal.Signals(number)
        if self._says:  # not print: the handler may interrupt one
            os.write(2, f"\n{self.signal.name}: finishing the step; a second one stops at once\n".encode())
