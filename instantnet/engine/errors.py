"""Errors that a user can fix: one line, exit status 2, no traceback. And the end of a run by a signal."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress

from instantnet.engine import loading

LONGEST_LINE = 300  # characters of a message


class UserError(Exception):
    """Something the user gave cannot be used: a setting, a file, a data set.

    The message is one line that names the thing, the value and what is legal. details: what does not fit into it, a
    line each, for standard output.
    """

    def __init__(self, message: str, details: Sequence[str] = ()):
        super().__init__(message)
        self.details = tuple(details)


OTHER_CONTENT = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What plain data of another shape than expected raises in a function that makes something of it."""


def reason(error: BaseException) -> str:
    """What is wrong, in words: a KeyError says no more than a name."""
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


class Diverged(UserError):
    """A loss, a weight or a logit became NaN or infinite. `what`: what became so and when, without the advice."""

    def __init__(self, what: str, advice: str = ""):
        super().__init__(f"{what}; {advice}" if advice else what)
        self.what = what


class Stopped(KeyboardInterrupt):
    """A signal ended the run. `status`: 128 + the signal's number, as in a shell. together: all processes of the run
    end after the same step."""

    def __init__(self, number: int, together: bool = False):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status, self.together = 128 + number, together


def shown(value: object, limit: int = 80) -> str:
    """`repr` on one line, cut to `limit` characters: what a file holds must not flood a message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # integers beyond Python's digit limit, self-containing lists
        text = f"<{type(value).__name__}>"
    text = " ".join(text.split())  # a tensor's has lines
    return text if len(text) <= limit else text[: limit - 3] + "..."


def escaped(text: str, keep: str = "") -> str:
    """`text` with every character that does not print (controls, terminal codes, lone surrogates) as an escape, but
    for those in `keep`."""
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def one_line(message: str) -> str:
    """A message for a terminal: one line, escaped, at most `LONGEST_LINE` characters, its middle cut out."""
    text = escaped(" ".join(message.split()))
    tail = LONGEST_LINE * 2 // 3  # what can be done about it comes last
    return text if len(text) <= LONGEST_LINE else f"{text[: LONGEST_LINE - tail - 5]} ... {text[-tail:]}"


def as_many_as_fit(parts: Sequence[str], room: int) -> int:
    """How many of the parts, joined by "; ", have at most `room` letters."""
    return next((count for count in range(len(parts), 0, -1) if len("; ".join(parts[:count])) <= room), 0)


def exit_status(main: Callable[[], int | None]) -> int:
    """Run a script's `main` and turn a `UserError`, or a failure of the system, into one line on standard error and
    status 2.

    Ctrl-C gives 130, the shell's convention for SIGINT; SIGTERM gives 143. If the reader of the output has gone,
    as with `| head`, the status is 141, without a message.
    """
    loading.loaded()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that is not of UTF-8, a name that is not
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main() or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        _discard_output()
        return 128 + signal.SIGPIPE
    except (UserError, KeyboardInterrupt) as error:
        return print_error(error)
    except Exception as error:
        if user_error(error) is None:
            raise
        if isinstance(error, OSError):
            _discard_output()
        return print_error(error)
    finally:
        # Where KeyboardInterrupt went through an `exec` of text (namedtuple, numba), `python -m` ends by SIGINT
        # whatever the status, though it was caught; the next `exec` takes that mark off (CPython's pythonrun.c).
        exec("")


def _discard_output() -> None:
    """What is still in the buffer would raise once more at the interpreter's end."""
    with suppress(OSError, ValueError):  # a stream without a descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def user_error(error: BaseException) -> UserError | None:
    """What a failure of the system (no room, no permission, a killed worker) is to a user; None of a bug."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.strerror:
        writing = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
        where = error.filename or ("cannot write the output" if writing else type(error).__name__)
        return UserError(f"{where}: {error.strerror}")
    if isinstance(error, MemoryError):
        return UserError("out of memory")
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return UserError(
            "a process that decodes images was killed (out of memory?); fewer --num_workers or a smaller --prefetch "
            "need less; --resume continues from the last checkpoint"
        )
    return None


def print_error(error: BaseException) -> int:
    """Print what ended a process on standard error: one line, or a traceback for a bug. Returns its exit status."""
    known = user_error(error)
    if known is not None:
        if details := getattr(known, "details", ()):
            print(*details, sep="\n", flush=True)
        line, status = one_line(f"error: {known}"), 2
    elif isinstance(error, Stopped):
        line, status = str(error), error.status
    elif isinstance(error, KeyboardInterrupt):
        line, status = "interrupted", 130
    else:
        line, status = "".join(traceback.format_exception(error)).rstrip(), 1
    print(line, file=sys.stderr, flush=True)
    return status
