"""Ctrl-C while a command still loads its modules, which takes seconds: one line and status 130, no traceback."""

import os
import signal
from types import FrameType


def interruptible() -> None:
    """From here to `loaded()`, Ctrl-C ends the process at once. Only where Python's own handler stands."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def loaded() -> None:
    """Ctrl-C is KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)  # an exception would run through, or be lost in, whatever is half imported
