"""python -m instantnet.deploy WEIGHTS [--bits 4,8,16] [--save ckpt/deploy]: a trained network as integers and ONNX,
each compared with torch and measured."""

from instantnet.engine import loading

if __name__ == "__main__":
    loading.interruptible()

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from instantnet.engine.errors import UserError, exit_status
from instantnet.engine.version import version_line

IMAGES = 2000


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse(sys.argv[1:] if argv is None else argv)
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"an export needs {missing[0]}, which is not installed: pip install onnx onnxruntime")
    run(arguments)
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the options)")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Raises UserError where the words are not legal."""
    prog = sys.argv[0] if sys.argv[0].startswith("instantnet ") else "python -m instantnet.deploy"
    parser = _Parser(prog=prog, description=__doc__.partition(": ")[2], allow_abbrev=False)
    parser.add_argument("weights", nargs="?", default="ckpt/finetune", metavar="WEIGHTS",
                        help="weights.pt of train.py, or its folder [default: ckpt/finetune]")  # fmt: skip
    parser.add_argument("--bits", type=_bits, default=(), metavar="4,8,16",
                        help="bit-widths to export, and 32 [default: all of the network]")  # fmt: skip
    parser.add_argument("--save", type=Path, default=Path("ckpt/deploy"), metavar="FOLDER",
                        help="folder of the files; an export in it is replaced [default: ckpt/deploy]")  # fmt: skip
    parser.add_argument("--images", type=_count, default=IMAGES, metavar="N",
                        help=f"test images to compare on, or random ones [default: {IMAGES}]")  # fmt: skip
    parser.add_argument("--network", metavar="FILE:FUNCTION", help="what made the network, where that is code")
    parser.add_argument("--dataset_path", metavar="FOLDER", help="folder of the data set [default: as the file says]")
    parser.add_argument("--map", type=Path, metavar="FILE", help="report.json of AutoMapper: the loops of the C layers")
    parser.add_argument("--float_sums", action="store_true",
                        help="8bit.onnx: leave sums float; closer to torch, and slower")  # fmt: skip
    return parser.parse_args(list(argv))


def _bits(text: str) -> tuple[int, ...]:
    try:
        widths = tuple(sorted({int(word) for word in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of bit-widths such as 4,8,16") from None
    return widths


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10**6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of images, 1 to 1,000,000")
    return int(text)


def run(arguments: argparse.Namespace) -> None:
    from instantnet import inference  # imported here: torch takes seconds to load, and --help needs none of it
    from instantnet.deploy import export, images
    from instantnet.formats import read_weights

    export.check_folder(arguments.save)
    file = read_weights(arguments.weights, arguments.network)
    network = inference.TrainedNetwork(file)
    assert file.settings is not None
    data = file.data
    shape = (3, data.height, data.width) if data else (3, file.settings.image_height, file.settings.image_width)
    subject = export.Subject(
        str(file.path), network.model, shape, class_names=network.class_names, accuracy=file.accuracy
    )
    if data:
        subject.mean, subject.std = data.mean, data.std
    subject.map_report = arguments.map
    found = images.images_of_test(file, arguments.images, arguments.dataset_path)
    found = found or images.random_images(arguments.images, shape, subject.mean, subject.std)
    print(f"{version_line()}\ndeploy {file.path}: compared on {len(found.pixels)} {found.source}", flush=True)
    files = export.exported(subject, found, arguments.bits, arguments.float_sums, lambda line: print(line, flush=True))
    export.write(files, arguments.save)
    print(f"wrote {arguments.save}/report.md, {', '.join(name for name in files if name != 'report.md')}")


if __name__ == "__main__":
    sys.exit(exit_status(main))
