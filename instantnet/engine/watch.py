"""What the processes of a run know of each other's fate, over the key-value store they met at.

Each beats once a second, tells the others when it fails, and ends when another has failed or has stopped beating. An
exchange that waits for a dead process would otherwise wait on: NCCL does not notice, gloo only where the machine lives
on.
"""

import json
import os
import socket
import sys
import threading
import time
from typing import NoReturn

import torch.distributed as dist

from instantnet.engine.errors import UserError, tell

INTERVAL_S = 1.0
SILENCE_S = 40.0  # of a process that is taken for dead: compiling a kernel may hold the interpreter for seconds
LEFT = b"left"
STORE_LOST = "process 0 of this run is gone: no connection to it any more"


class Watch:
    """From here on this process is watched and watches. `leave` when all is done, or `failed` with what went wrong."""

    def __init__(self, store: dist.Store, rank: int, world_size: int, local_rank: int):
        self._main, self._own = store, store.clone()  # a connection for each thread: one that waits blocks the other
        self._rank, self._ranks, self._first_here = rank, range(world_size), local_rank == 0
        self._shares_terminal = dist.is_torchelastic_launched()
        self._host = socket.gethostname()
        self._ended = threading.Event()
        self._beat, self._done = 0, False
        store.set(_beat_of(rank), "0")
        store.wait([_beat_of(r) for r in self._ranks])
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """This process has done its part. The first one stays until the others have: they may talk through it."""
        self._done = True
        self._main.set(_beat_of(self._rank), LEFT)
        while self._rank == 0 and any(beat != LEFT for beat in self._beats(self._main)):
            time.sleep(0.05)
        self._stop()

    def failed(self, error: BaseException) -> NoReturn:
        """Tell the others, and the user, that this process ends by `error`; raises `SystemExit`.

        Where another process failed first, it is that one's failure that is told.
        """
        try:
            if connection_lost(error) and (lost := self._reason_for_silence()):
                error = UserError(lost)
            line = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            first = self._report(self._main, line, _status(error))
        except RuntimeError:  # the store is gone, with the process that held it
            self._stop()
            raise SystemExit(tell(UserError(STORE_LOST) if connection_lost(error) else error)) from None
        # At once: where torchrun sees another process end by it, it ends this one.
        status = tell(error) if first["rank"] == self._rank else self._tell(first)
        self._stop()
        if self._rank == 0:
            time.sleep(2 * INTERVAL_S)  # the store may be this process's, and the others have to read it
        raise SystemExit(status)

    def _watch(self) -> None:
        seen: dict[int, tuple[bytes, float]] = {}
        while not self._ended.wait(INTERVAL_S):
            try:
                self._beat += 1
                self._own.set(_beat_of(self._rank), LEFT if self._done else str(self._beat))
                failure, now = self._failure(self._own), time.monotonic()
                for rank, beat in enumerate(self._beats(self._own)):
                    if seen.get(rank, (b"", 0.0))[0] != beat or beat == LEFT:
                        seen[rank] = beat, now
                    elif now - seen[rank][1] > SILENCE_S:
                        line = f"process {rank} of this run has not answered for {SILENCE_S:.0f} s"
                        failure = self._report(self._own, line, status=2)
            except RuntimeError:
                failure = {"line": STORE_LOST, "status": 2}
            if failure is not None and not self._ended.is_set():
                self._tell(failure)
                sys.stdout.flush()
                os._exit(failure["status"])  # the main thread may be in an exchange that never ends

    def _stop(self) -> None:
        self._ended.set()
        self._thread.join(timeout=5)

    def _beats(self, store: dist.Store) -> list[bytes]:
        return store.multi_get([_beat_of(rank) for rank in self._ranks])

    def _failure(self, store: dist.Store) -> dict | None:
        return json.loads(store.get("failure")) if store.check(["failure"]) else None

    def _reason_for_silence(self) -> str | None:
        """Why the connection to another process broke: None where one has told, else which has stopped to beat."""
        before, until = self._beats(self._main), time.monotonic() + 4 * INTERVAL_S
        while time.monotonic() < until:
            if self._failure(self._main):
                return None
            time.sleep(0.1)
        for rank, (old, new) in enumerate(zip(before, self._beats(self._main), strict=True)):
            if old == new != LEFT and rank != self._rank:
                return f"process {rank} of this run has ended without a word (killed, or out of memory?)"
        return "the connection between the processes of this run is lost"

    def _report(self, store: dist.Store, line: str, status: int) -> dict:
        """The failure that ends the run: this one, or the one that another process reported before."""
        mine = {"rank": self._rank, "host": self._host, "line": " ".join(line.split())[:2000], "status": status}
        return json.loads(store.compare_set("failure", "", json.dumps(mine)))

    def _tell(self, failure: dict) -> int:
        reporter, host = failure.get("rank", self._rank), failure.get("host")
        if reporter == self._rank:
            who = ""
        elif self._shares_terminal and (host == self._host or not self._first_here):
            return failure["status"]  # torchrun shows what one machine's processes print together: a line once
        else:
            who = f" (process {reporter} on {host})"
        print(f"error: {failure['line']}{who}", file=sys.stderr, flush=True)
        return failure["status"]


def connection_lost(error: BaseException) -> bool:
    """Whether `error` is an exchange that failed because another process is gone."""
    if not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "Connection closed by peer" in str(error)


def _beat_of(rank: int) -> str:
    return f"beat/{rank}"


def _status(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return getattr(error, "status", 130)
    return 2 if isinstance(error, UserError) else 1
