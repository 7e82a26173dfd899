"""What a run sets up on its machine: memory that is kept, in huge pages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import ROOT

PROGRAM = """
import json, resource, sys
import torch
from instantnet.engine.machine import tune_cpu
tune_cpu(1, keep_memory=sys.argv[1] == "keep")
tensors = lambda: [torch.ones(8 << 20) for _ in range(4)]  # 128 MiB
tensors()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    last = tensors()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
lines = open("/proc/self/smaps").read().splitlines()
huge_kib = sum(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages"))
resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"faults": faults, "huge_mib": huge_kib / 1024, "resident_mib": resident}))
"""
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_kept_memory_is_not_faulted_in_again_and_lies_in_huge_pages():
    seen = {}
    for choice in ("return", "keep"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, choice], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        seen[choice] = json.loads(done.stdout)
    assert seen["return"]["faults"] > 1000  # or the test shows nothing
    assert seen["keep"]["faults"] < 500
    assert seen["keep"]["resident_mib"] < 2 * seen["return"]["resident_mib"]  # what is reserved is not taken
    if THP.exists() and "[never]" not in THP.read_text():
        assert seen["keep"]["huge_mib"] > 64
