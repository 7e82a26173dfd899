"""A network that any test can afford; the scripts as a user runs them, on one as small and for as long."""

import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch

from instantnet.engine.errors import exit_status
from instantnet.operations import Geometry

ROOT = Path(__file__).parent.parent
TINY_GEOMETRY = Geometry(
    num_layer_list=(1, 2, 1),
    num_channel_list=(4, 6, 6),
    stride_list=(1, 2, 1),
    stem_channel=4,
    stem_stride=1,
    header_channel=8,
    num_classes=5,
    image_height=8,
    image_width=8,
    quantize_ends=False,
)
TINY_NETWORK = shlex.split(
    "--num_layer_list 1,1 --num_channel_list 4,6 --stride_list 2,2 --stem_channel 4 --header_channel 8 "
    "--num_bits_list 4,8,32"
)
# Where no more than a network is needed: a search takes a third of the time.
ONE_LAYER = shlex.split(
    "--num_layer_list 1 --num_channel_list 4 --stride_list 2 --stem_channel 4 --header_channel 8 --num_bits_list 4,32"
)
SHORT_TRAINING = ["--device", "cpu", "--nepochs", "3", "--batch_size", "32", "--max_steps", "2"]
SHORT_SEARCH = [*SHORT_TRAINING, "--temp_decay", "0.8"]
TINY_SEARCH = ["--preset", "digits", *TINY_NETWORK, *SHORT_SEARCH]


def run_script(*words: str) -> SimpleNamespace:
    """`python WORDS` in a process of its own, from the repository's root."""
    result = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300)
    return SimpleNamespace(status=result.returncode, out=result.stdout, err=result.stderr)


def run_here(stage: ModuleType, *words: object) -> int:
    """`python STAGE.py WORDS` in this process, where everything is imported; returns the exit status."""
    return exit_status(lambda: stage.main(list(map(str, words))))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under `folder` with its bytes: to see that nothing was overwritten."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same_tensors(first, second) -> bool:
    """Whether two loaded checkpoints agree bit for bit (but for the folder's name in `config`, and the sizes of logs
    that tell times)."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        keys = first.keys() - {"config", "log_sizes"}
        return keys == second.keys() - {"config", "log_sizes"} and all(same_tensors(first[k], second[k]) for k in keys)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same_tensors, first, second))
    return first == second


def load(path: Path):
    return torch.load(path, weights_only=True)
