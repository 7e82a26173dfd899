"""One process of a run fails, is killed or hangs: the others end and say why, in one line."""

import json
import os
import socket
import subprocess
import sys
from signal import SIGKILL

import pytest
from tiny_runs import ROOT

HOST = socket.gethostname()
WAIT = "\nprocesses.mean(torch.ones(1))"  # for the other one, which does not come
CASES = {
    "user error": "if here: raise UserError('setting x = 3: too large')" + WAIT,
    "bug": "if here: raise ValueError('boom')" + WAIT,
    "bug in the main process": "if not here: raise ValueError('boom')" + WAIT,
    "both": "raise UserError('setting x = 3: too large')",
    "killed": "if here: os.kill(os.getpid(), signal.SIGKILL)" + WAIT,
    "main process killed": "if not here: os.kill(os.getpid(), signal.SIGKILL)" + WAIT,
    "hanging": "if here: os.kill(os.getpid(), signal.SIGSTOP)" + WAIT,
    "main process done first": "time.sleep(5 * here)",
    "other process done first": "time.sleep(5 * (1 - here))",
}
LAUNCHER = """
import json, os, signal, sys, time
import torch
from datetime import timedelta
from instantnet.engine import distributed
from process_groups import free_port, variables
from instantnet.engine.distributed import joined
from instantnet.engine.errors import UserError, exit_status

folder, cases = sys.argv[1], json.loads(sys.argv[2])
distributed.STEP_TIMEOUT = timedelta(seconds=float(sys.argv[3]))
torch.set_num_threads(1)

def main(body):
    with joined("cpu") as processes:
        processes.mean(torch.ones(1))
        print("joined", flush=True)
        exec(body, globals() | {"here": processes.rank, "processes": processes})
    print("left", flush=True)

def process(case, body, rank, port):  # forked: importing torch costs more than all the rest
    pid = os.fork()
    if pid:
        return pid
    os.environ.update(variables(rank, 2, port))
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}/{case} {rank} {name}", os.O_CREAT | os.O_WRONLY), descriptor)
    try:
        sys.exit(exit_status(lambda: main(body)))
    except SystemExit as end:
        status = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.stdout.flush()
    os._exit(status)

pids = {}
for case, body in cases.items():
    port = free_port()
    for rank in range(2):
        pids[case, rank] = process(case, body, rank, port)
statuses = {}
for (case, rank), pid in pids.items():
    if (case, rank) == ("hanging", 1):
        os.kill(pid, signal.SIGKILL)  # the other one has ended
    statuses[f"{case} {rank}"] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(json.dumps(statuses))
"""


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Case -> (status, output, errors) of process 0 and of process 1. All cases run at once."""
    folder = tmp_path_factory.mktemp("ends")
    command = [sys.executable, "-c", LAUNCHER, str(folder), json.dumps(CASES), "15"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    statuses = json.loads(result.stdout)

    def end(case, rank):
        texts = [(folder / f"{case} {rank} {name}").read_text() for name in ("out", "err")]
        return statuses[f"{case} {rank}"], *texts

    return {case: [end(case, rank) for rank in range(2)] for case in CASES}


def errors(text):
    return [line for line in text.splitlines() if line.startswith("error: ")]


def test_an_error_of_the_user_in_one_process(ends):
    (status, _, err), (own_status, _, own_err) = ends["user error"]
    assert (status, own_status) == (2, 2)
    assert own_err == "error: setting x = 3: too large\n"
    assert errors(err) == [f"error: setting x = 3: too large (process 1 on {HOST})"]


@pytest.mark.parametrize("case, failing", [("bug", 1), ("bug in the main process", 0)])
def test_a_bug_in_one_process(ends, case, failing):
    status, _, err = ends[case][failing]
    assert status == 1 and "Traceback" in err and "ValueError: boom" in err
    status, _, err = ends[case][1 - failing]
    assert status == 1
    assert errors(err) == [f"error: ValueError: boom (process {failing} on {HOST})"]


def test_the_same_error_in_both_is_told_by_both(ends):
    """Started by hand, each has a terminal of its own."""
    for status, _, err in ends["both"]:
        assert status == 2 and len(errors(err)) == 1 and "setting x = 3: too large" in err
        assert "Traceback" not in err


def test_a_killed_process(ends):
    (status, out, err), (killed, _, _) = ends["killed"]
    assert (status, killed) == (2, -SIGKILL)
    assert errors(err) == ["error: another process of this run has ended without a word (killed, or out of memory?)"]
    assert "left" not in out and "Traceback" not in err


def test_the_main_process_killed(ends):
    """The others talk through a store in this process."""
    (killed, _, _), (status, out, err) = ends["main process killed"]
    assert (status, killed) == (2, -SIGKILL)
    assert errors(err) == ["error: process 0 of this run is gone: no connection to it any more"]
    assert "left" not in out and "Traceback" not in err


def test_a_hanging_process(ends):
    status, out, err = ends["hanging"][0]
    assert status == 2 and "left" not in out
    assert errors(err) == ["error: another process of this run did not answer in time"]


@pytest.mark.parametrize("case", ["main process done first", "other process done first"])
def test_processes_that_are_done_at_different_times(ends, case):
    for status, out, err in ends[case]:
        assert (status, out.split()) == (0, ["joined", "left"]), err
        assert errors(err) == []
