"""Errors that a user can fix: one line, exit status 2, no traceback. And the end of a run by a signal."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence


class UserError(Exception):
    """Something the user gave cannot be used: a setting, a file, a data set.

    The message is one line that names the thing, the value and what is legal. details: what does not fit into it, a
    line each, for standard output.
    """

    def __init__(self, message: str, details: Sequence[str] = ()):
        super().__init__(message)
        self.details = tuple(details)


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


def exit_status(main: Callable[[], int | None]) -> int:
    """Run a script's `main` and turn a `UserError` into one line on standard error and status 2.

    Ctrl-C gives 130, the shell's convention for SIGINT; SIGTERM gives 143. If the reader of the output has gone,
    as with `| head`, the status is 141, without a message.
    """
    try:
        status = main() or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The rest of the buffer would raise again at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (UserError, KeyboardInterrupt) as error:
        return print_error(error)


def print_error(error: BaseException) -> int:
    """Print what ended a process on standard error: one line, or a traceback for a bug. Returns its exit status."""
    if isinstance(error, UserError):
        if error.details:
            print(*error.details, sep="\n", flush=True)
        line, status = f"error: {' '.join(str(error).split())}", 2
    elif isinstance(error, Stopped):
        line, status = str(error), error.status
    elif isinstance(error, KeyboardInterrupt):
        line, status = "interrupted", 130
    else:
        line, status = "".join(traceback.format_exception(error)).rstrip(), 1
    print(line, file=sys.stderr, flush=True)
    return status
