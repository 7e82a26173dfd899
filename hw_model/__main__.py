"""python -m hw_model CASE.json [--json]: the cost of the case, or of every case of a list, in the file."""

from __future__ import annotations

import argparse
import sys

from hw_model.cases import Case, read_cases, results_json
from hw_model.errors import InputError, InvalidMapping, one_line
from hw_model.loop_nest import loop_nest
from hw_model.timeloop import export_timeloop, write_timeloop
from hw_model.widths import widths_of

EPILOG = """exit status: 0 valid, 1 a mapping is invalid, 2 the input cannot be read. A case is
{"layer": {"K": 128, "C": 128, "P": 28, "Q": 28, "R": 3, "S": 3}, "device": "eyeriss", "bits": 16,
 "mapping": {"dram": [["K", 4], ["C", 8]], "glb": [["P", 7]], "spatial_x": [["P", 4]], "rf": [["S", 3]], ..}}"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m hw_model",
        description="What a layer costs on a device with a mapping.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("case", metavar="CASE.json", help="a case, or a list of cases")
    parser.add_argument("--json", action="store_true", help="write the result as JSON to standard output")
    parser.add_argument("--timeloop", metavar="DIR", help="also write Timeloop inputs, five files, into this folder")
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that is not of UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(options)
    except KeyboardInterrupt:
        exec("")  # else, had it gone through an `exec` of text, `python -m` would end by SIGINT and not with a status
        print("interrupted", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    """Read the cases and print what they cost; returns the exit status."""
    try:
        cases = read_cases(options.case)
        if options.timeloop:
            _export(cases, options.timeloop)
    except InputError as error:
        print(one_line(f"error: {error}"), file=sys.stderr)
        return 2
    except OSError as error:
        print(one_line(f"error: {error.filename or options.timeloop}: {error.strerror}"), file=sys.stderr)
        return 2
    try:
        return _show(cases, options.json)
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        sys.stdout = None
        return 0
    except OSError as error:
        sys.stdout = None  # what is still in its buffer would raise once more
        print(one_line(f"error: cannot write the output: {error.strerror}"), file=sys.stderr)
        return 2


def _show(cases: list[Case] | Case, as_json: bool) -> int:
    """Print the results; returns the exit status."""
    if as_json:
        text, valid = results_json(cases)
        print(text, flush=True)
    else:
        printed = [_print(case) for case in (cases if isinstance(cases, list) else [cases])]
        sys.stdout.flush()
        valid = all(printed)
    return 0 if valid else 1


def _export(cases: list[Case] | Case, folder: str) -> None:
    """Write Timeloop's inputs: of a single case into the folder, of a list into folder/0, folder/1, ..."""
    for index, case in enumerate(cases if isinstance(cases, list) else [cases]):
        target = f"{folder}/{index}" if isinstance(cases, list) else folder
        write_timeloop(target, export_timeloop(case.layer, case.mapping, case.device, case.bits))


def _print(case: Case) -> bool:
    """Print a case and its cost; False when the mapping is invalid."""
    unit = "" if case.device.energy_unit == "pJ" else f" (1 pJ stands for one unit: {case.device.energy_unit})"
    print(f"{case.layer.name or 'layer'} on {case.device.name}, {widths_of(case.bits).words}{unit}")
    print(loop_nest(case.layer, case.mapping, case.device, case.bits))
    try:
        cost = case.cost()
    except InvalidMapping as error:
        print("invalid:", *error.reasons, sep="\n  ", end="\n\n")
        return False
    print(cost, end="\n\n")
    return True


if __name__ == "__main__":
    sys.exit(main())
