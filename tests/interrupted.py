"""A stage whose process RANK gets a signal at one of its steps: `interrupted.py RANK SIGNAL STEP SCRIPT ...`

Only once: not where torchrun has started the processes again, nor in a resumed run, which counts its steps on.
"""

import importlib
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))


def main(rank: str, number: str, at_step: str, script: str, *words: str) -> int:
    from instantnet.engine.errors import exit_status

    stage = importlib.import_module(f"instantnet.{script.removesuffix('.py')}")
    from instantnet.engine import run

    checked = run.finite_losses

    def finite_losses(losses, epoch, step, last_good):
        if step == int(at_step) and os.environ["RANK"] == rank and os.environ.get("TORCHELASTIC_RESTART_COUNT") != "1":
            os.kill(os.getpid(), getattr(signal, number))
        return checked(losses, epoch, step, last_good)

    run.finite_losses = finite_losses
    sys.argv = [script, *words]
    return exit_status(stage.main)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
