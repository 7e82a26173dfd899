"""Both stages on digits, killed with SIGKILL at random moments and resumed each time, against an undisturbed run.

    python tests/kill_and_resume.py [--kills 20] [--seed 0] [--checkpoint_every 3]

Prints for each stage where the kills fell, and whether arch.pt or weights.pt is the same file bit by bit; ends with
status 1 where it is not. Takes minutes: every resumed run starts Python and torch again.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent


def start(script: str, words: list[str], folder: Path) -> subprocess.Popen:
    """The script in a process of its own, which writes to `out` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / script), *words, "--save", "out"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    errors = process.communicate()[1]
    if process.returncode:
        sys.exit(f"{' '.join(process.args)} ended with {process.returncode}:\n{errors}")


def metrics(folder: Path) -> list[dict]:
    """metrics.jsonl but for the times."""
    lines = [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_s"} for line in lines]


def disturbed(
    script: str, words: list[str], folder: Path, kills: int, rng: random.Random, startup_s: float, work_s: float
) -> Counter:
    """Run the script to its end, killed `kills` times: one time in five while it starts up, else at a moment of its
    work, so that all kills together let it work for about as long as it takes; where the kills fell."""
    fell: Counter = Counter()
    while sum(fell.values()) < kills:
        resume = ["--resume"] if (folder / "out" / "checkpoint.pt").exists() else []
        process = start(script, [*words, *resume], folder)
        try:
            starting = rng.random() < 0.2
            process.wait(rng.uniform(0, startup_s) if starting else startup_s + rng.uniform(0, 2 * work_s / kills))
            finish(process)  # it was done before; it is resumed, and killed, once more
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            writing = list((folder / "out").glob(".*.partial"))
            done = metrics(folder) if (folder / "out" / "metrics.jsonl").exists() else []
            fell["while a file was written" if writing else f"after {len(done)} epochs"] += 1
    finish(start(script, [*words, "--resume"], folder))
    return fell


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint_every", default="3")
    given = parser.parse_args()
    rng = random.Random(given.seed)
    same = True
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder, "undisturbed"), Path(folder, "killed")
        for stage, script, result, words in [
            ("search", "train_search.py", "arch.pt", []),
            ("train", "train.py", "weights.pt", ["--load_path", str(whole / "search" / "out")]),
        ]:
            words = ["--preset", "digits", "--device", "cpu", "--checkpoint_every", given.checkpoint_every, *words]
            begin = time.perf_counter()
            process = start(script, words, whole / stage)
            while process.poll() is None and not (whole / stage / "out" / "checkpoint.pt").exists():
                time.sleep(0.05)
            startup_s = time.perf_counter() - begin
            finish(process)
            seconds = time.perf_counter() - begin
            fell = disturbed(script, words, killed / stage, given.kills, rng, startup_s, seconds - startup_s)
            first, second = ((path / stage / "out" / result).read_bytes() for path in (whole, killed))
            logs = metrics(whole / stage) == metrics(killed / stage)
            same &= first == second and logs
            places = ", ".join(f"{count} {place}" for place, count in sorted(fell.items()))
            print(f"{script}: {seconds:.0f} s undisturbed; killed {given.kills} times: {places}")
            print(f"  {result}: {'the same file' if first == second else 'DIFFERS'} ({len(first)} bytes)", end="")
            print(f"; metrics.jsonl: {'the same but for times' if logs else 'DIFFERS'}", flush=True)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
