"""How several processes end when one fails: each machine shows the line of the first failure, and no traceback of the
connections that it broke.

The first failure is written into the key-value store that connects the processes. Processes that wait for a dead one
are ended by torchrun's agent, by gloo's broken connection, or by the time-out of the exchange.
"""

import json
import socket
import sys
import time
from typing import Any, NoReturn

import torch.distributed as dist

from instantnet.engine.errors import UserError, one_line, print_error, user_error

WAIT_S = 4.0  # for the message of the process whose end broke the connection
STAY_S = 2.0  # the process that holds the store waits this long, so that the others can read it
STORE_LOST = "process 0 of this run is gone: no connection to it any more"
NO_WORD = "another process of this run has ended without a word (killed, or out of memory?)"
NO_ANSWER = "another process of this run did not answer in time"


class Failures:
    """The first failure of a run's processes, as one of them sees it."""

    def __init__(self, store: dist.Store, rank: int, local_rank: int):
        self._store, self._rank, self._first_here = store, rank, local_rank == 0
        self._shares_terminal = dist.is_torchelastic_launched()
        self._host = socket.gethostname()

    def end(self, error: BaseException) -> NoReturn:
        """Report to the other processes and the user that this process ends by `error`; raises `SystemExit`.

        Where another process failed first, its failure is shown.
        """
        try:
            first = self._first(error)
        except RuntimeError:  # the process that held the store is gone
            raise SystemExit(print_error(UserError(STORE_LOST) if connection_lost(error) else error)) from None
        if first["rank"] != self._rank:
            status = self._show(first)
        else:
            status = print_error(UserError(first["line"]) if connection_lost(error) else error)
        if dist.is_initialized() and dist.get_backend() == "gloo":
            dist.destroy_process_group()  # breaks the connections that the others wait on
        if self._rank == 0:
            time.sleep(STAY_S)
        raise SystemExit(status)

    def _first(self, error: BaseException) -> dict[str, Any]:
        """The failure that ends the run: this one, or one that another process reported before."""
        line = str(user_error(error) or f"{type(error).__name__}: {error}")
        status = _status(error)
        if connection_lost(error):
            until = time.monotonic() + WAIT_S
            while time.monotonic() < until and not self._store.check(["failure"]):
                time.sleep(0.1)
            line, status = NO_ANSWER if "imed out" in str(error) else NO_WORD, 2
        mine = {"rank": self._rank, "host": self._host, "line": " ".join(line.split())[:2000], "status": status}
        return json.loads(self._store.compare_set("failure", "", json.dumps(mine)))

    def _show(self, failure: dict[str, Any]) -> int:
        """Show another process's failure, unless its own line is on the same terminal; returns the exit status."""
        host = failure["host"]
        if self._shares_terminal and (host == self._host or not self._first_here):
            return failure["status"]
        print(one_line(f"error: {failure['line']} (process {failure['rank']} on {host})"), file=sys.stderr, flush=True)
        return failure["status"]


def connection_lost(error: BaseException) -> bool:
    """Whether `error` is an exchange that failed because another process is gone, or does not answer."""
    if not isinstance(error, RuntimeError):
        return False
    words = ("gloo", "Connection closed by peer", "imed out waiting")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def _status(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return getattr(error, "status", 130)
    return 2 if user_error(error) else 1
