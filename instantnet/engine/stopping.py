"""Ctrl-C (SIGINT) and SIGTERM as a request: the run finishes its step, saves, and says how to go on."""

import os
import signal
import threading
from typing import Any

from instantnet.engine.errors import Stopped


class StopRequest:
    """Within it the first SIGINT or SIGTERM is only noted, in `signal`; a second one raises `Stopped` on the spot.

    Off the main thread, where signals cannot be handled, it does nothing. says: whether it tells the user.
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
        if self._says:  # not by print: the handler may run in the middle of one
            os.write(2, f"\n{self.signal.name}: finishing the step; a second one stops at once\n".encode())
