"""`python -m experiments` lists the paper's claims; `python -m experiments CLAIM [--scale SCALE]` measures one and
prints its table; `python -m experiments report` writes all tables that have results into docs/results.md; `python -m
experiments take FILE` adds the runs of a results file that another machine wrote."""

from instantnet.engine import loading

if __name__ == "__main__":
    loading.interruptible()

import sys
import time
from collections.abc import Sequence

from experiments.options import parse
from instantnet.engine.errors import exit_status


def main(argv: Sequence[str] | None = None) -> int:
    begun = time.monotonic()
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = parse(words, __doc__)
    loading.interruptible()
    from experiments.command import run  # here: it takes seconds to load, and a wrong word is answered before

    loading.loaded()
    return run(arguments, words, begun)


if __name__ == "__main__":
    sys.exit(exit_status(main))
