"""A file of torch.save, perhaps a stranger's: its container, its pickle and its values, each checked before the next is
touched.

Nothing is executed, nothing is allocated that the file does not hold, and what comes out is plain: dictionaries with
text or integers for keys, lists, tuples, numbers, text, and dense tensors on the CPU.
"""

import math
import os
import pickletools
import re
import stat
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

LARGEST_BYTES = 2 << 30  # of a file
LARGEST_DIRECTORY_BYTES = 8 << 20  # of the container's list of tensors
LARGEST_PICKLE_BYTES = 16 << 20
MOST_OPERATIONS, OF_A_TENSOR = 300_000, 64  # of the pickle: in all, and more for each tensor; a supernet takes 33
MOST_VALUES, BESIDE_A_TENSOR = 120_000, 4  # the same; 100,000 names of classes are the most that is of use
DEEPEST = 12
LONGEST_TEXT = 1 << 16
MAPPED_BYTES = 64 << 20  # a larger file is mapped into memory, so that a bad one is refused before it is read

DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}
_STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_GLOBALS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", *(f"torch {n}Storage" for n in _STORAGES)}
_OF_OTHERS = {"torch._utils _rebuild_parameter", "torch._utils _rebuild_tensor"}  # in others' files of weights
_TUPLES = {"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_PUTS, _GETS = {"BINPUT", "LONG_BINPUT"}, {"BINGET", "LONG_BINGET"}
_OPERATIONS = {
    *_TUPLES, *_PUTS, *_GETS, "PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "EMPTY_DICT",
    "EMPTY_LIST", "SETITEM", "SETITEMS", "APPEND", "APPENDS", "BINUNICODE", "BINFLOAT", "BININT", "BININT1", "BININT2",
    "LONG1", "NONE", "NEWTRUE", "NEWFALSE",
}  # fmt: skip
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the first bytes of torch.save's format before zip files
_RECORD = re.compile(
    r"[^/]+/(data\.pkl|byteorder|version|\.format_version|\.storage_alignment|\.data/serialization_id|data/[0-9]+)"
)


class Unreadable(ValueError):
    """The file is not one that torch.save writes, or holds what no checkpoint of this project does."""


def read(path: Path | str) -> Any:
    """The content of a file of torch.save. Raises `Unreadable`, in a few words, or OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # of a FIFO it does not wait for a writer
    with os.fdopen(descriptor, "rb") as file:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise Unreadable("not a regular file")
        if state.st_size > LARGEST_BYTES:
            raise Unreadable(f"{state.st_size:,} bytes, and at most {LARGEST_BYTES:,} are read")
        try:
            tensors = _check_container(file, state.st_size)
            file.seek(0)
            with warnings.catch_warnings(action="ignore"):  # about odd pickles: the caller says what is wrong
                if state.st_size > MAPPED_BYTES:
                    content = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
                else:
                    content = torch.load(file, map_location="cpu", weights_only=True)
        except (Unreadable, OSError):
            raise
        except Exception as error:  # damaged bytes make it fail in many ways
            raise Unreadable("damaged, or another kind of file") from error
    _check_values(content, state.st_size, tensors)
    return content


def read_tensors(path: Path | str) -> Any:
    """The content of a file of weights as others write them, too: .safetensors, and torch.save's format before zip
    files, in which torchvision publishes. Raises `Unreadable` or OSError."""
    with open(path, "rb") as file:
        head = file.read(len(_LEGACY))
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        elif head == _LEGACY:
            _check_legacy(path)
            with warnings.catch_warnings(action="ignore"):
                content = torch.load(path, map_location="cpu", weights_only=True)
        else:
            return read(path)
    except (Unreadable, OSError):
        raise
    except Exception as error:  # damaged bytes make it fail in many ways
        raise Unreadable("damaged, or another kind of file") from error
    if not isinstance(content, dict):
        raise Unreadable("no dictionary of tensors")
    made: dict[int, Any] = {}
    content = _without_parameters(content, made)
    _check_values(content, os.path.getsize(path), sum(isinstance(value, Tensor) for value in made.values()))
    return content


def _without_parameters(content: Any, made: dict[int, Any], depth: int = 0) -> Any:
    """`content`, a dictionary perhaps of dictionaries, with tensors in place of parameters. made: what was made of the
    values so far, by their identity: one in two places stays one."""
    if depth > DEEPEST:
        raise Unreadable("nested too deeply, or in itself")
    if id(content) not in made:
        if isinstance(content, dict):
            made[id(content)] = {key: _without_parameters(value, made, depth + 1) for key, value in content.items()}
        else:
            made[id(content)] = content.detach() if isinstance(content, torch.nn.Parameter) else content
    return made[id(content)]


class _Beginning:
    """The first LARGEST_PICKLE_BYTES of a file, for pickletools."""

    def __init__(self, file: BinaryIO):
        self.file, self.left = file, LARGEST_PICKLE_BYTES

    def tell(self) -> int:
        return self.file.tell()

    def read(self, count: int = 1) -> bytes:
        return self._counted(self.file.read(min(count, self.left)))

    def readline(self) -> bytes:
        return self._counted(self.file.readline(self.left))

    def _counted(self, data: bytes) -> bytes:
        self.left -= len(data)
        if not self.left:
            raise Unreadable("more values than are read")
        return data


def _check_legacy(path: Path | str) -> None:
    """`Unreadable` unless a file in the format before zip files has pickles of plain data: of a version, of the
    machine, of the content and of the names of its tensors."""
    with open(path, "rb") as file:
        file.seek(len(_LEGACY))  # the first of them
        pickles = _Beginning(file)
        for _ in range(4):
            _check_pickle(pickles, 0, _GLOBALS | _OF_OTHERS)


def _check_container(file: BinaryIO, size: int) -> int:
    """`Unreadable` unless `file`, of `size` bytes, is a zip as torch.save writes it, with a pickle of plain data.
    Returns the number of its records."""
    if _directory_bytes(file, size) > LARGEST_DIRECTORY_BYTES:
        raise Unreadable("a list of more tensors than are read")
    with zipfile.ZipFile(file) as container:
        records = container.infolist()
        names = [record.filename.lower() for record in records]  # torch's reader knows no capitals
        if len(set(names)) < len(names) or not all(map(_RECORD.fullmatch, names)):
            raise Unreadable("damaged, or another kind of file")
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise Unreadable("compressed, which torch.save does not do")
        if sum(record.file_size for record in records) > size:
            raise Unreadable("it declares more bytes than it has")
        (pickle,) = (record for record in records if record.filename.endswith("/data.pkl"))
        if pickle.file_size > LARGEST_PICKLE_BYTES:
            raise Unreadable("more values than are read")
        _check_pickle(container.read(pickle), len(records))
    return len(records)


def _directory_bytes(file: BinaryIO, size: int) -> int:
    """What the zip's end record states: zipfile reads that many bytes before anything can be checked."""
    end, locator = 22, 20  # bytes of the two records at the end, which torch writes without a comment
    if size < end:
        raise Unreadable("damaged, or another kind of file")
    file.seek(size - end)
    signature, directory = struct.unpack("<4s8xI6x", file.read(end))
    if signature != b"PK\x05\x06":
        raise Unreadable("damaged, or another kind of file")
    if directory != 0xFFFFFFFF or size < end + locator:
        return directory
    file.seek(size - end - locator)
    (record,) = struct.unpack("<8xQ4x", file.read(locator))
    file.seek(min(record, size))
    return struct.unpack("<40xQ8x", file.read(56))[0]


def _check_pickle(data: Any, tensors: int, known: Set[str] = frozenset(_GLOBALS)) -> None:
    """`Unreadable` where the pickle (bytes, or a file at its beginning) does anything but build dictionaries, lists,
    numbers, text and tensors, or does more than the file's number of tensors asks for. known: what it may call."""
    tuples: set[int] = set()
    last = ""
    for count, (operation, argument, _) in enumerate(pickletools.genops(data)):
        name = operation.name
        if count >= MOST_OPERATIONS + OF_A_TENSOR * tensors:
            raise Unreadable("more values than are read")
        if name not in _OPERATIONS or (name == "GLOBAL" and argument not in known):
            what = str(argument).replace(" ", ".") if name == "GLOBAL" else name
            raise Unreadable(f"it holds {what[:80]!r}, which is neither a number, a text nor a dense tensor")
        if name == "LONG1" and isinstance(argument, int) and argument.bit_length() > 64:
            raise Unreadable("an integer of more than 64 bits")
        if name in _PUTS and last in _TUPLES and isinstance(argument, int):
            tuples.add(argument)
        if name in _GETS and argument in tuples:
            # A tuple of one tuple twice, and so on 60 times, as a key of a dictionary: its hash takes for ever.
            raise Unreadable("one tuple in two places")
        last = name


def _check_values(content: Any, size: int, tensors: int) -> None:
    """`Unreadable` unless `content` is plain data and dense tensors that the file holds. size, tensors: of the file, in
    bytes, and how many."""
    tensor_bytes, storages = 0, {}
    for count, (where, value, depth) in enumerate(_walk(content)):
        if count >= MOST_VALUES + BESIDE_A_TENSOR * tensors:
            raise Unreadable("more values than are read")
        if depth > DEEPEST:
            raise Unreadable(f"nested too deeply, or in itself, at {_shown(where[:3])}")
        why = _why_not(value)
        if why:
            raise Unreadable(f"{_shown(where) or 'its content'} {why}")
        if isinstance(value, Tensor):
            tensor_bytes += value.numel() * value.element_size()
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
    if max(tensor_bytes, sum(storages.values())) > size:
        raise Unreadable("its tensors are larger than the file")


def _walk(content: Any) -> Iterator[tuple[tuple, Any, int]]:
    """(path of keys, value, depth) of every value, containers before what they hold."""
    waiting: list[tuple[tuple, Any, int]] = [((), content, 0)]
    while waiting:
        where, value, depth = waiting.pop()
        yield where, value, depth
        if isinstance(value, dict):
            waiting += [((*where, key), item, depth + 1) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [((*where, index), item, depth + 1) for index, item in enumerate(value)]


def _why_not(value: Any) -> str:
    """Why a checkpoint cannot hold this value (whatever is in it); "" where it can."""
    if isinstance(value, Tensor):
        return _why_not_tensor(value)
    if type(value) in (dict, OrderedDict):
        odd = [key for key in value if type(key) not in (str, int)]
        return f"has a key that is a {type(odd[0]).__name__}, not text or an integer" if odd else ""
    if isinstance(value, str):
        return "is a longer text than is read" if len(value) > LONGEST_TEXT else ""
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"is {value}"
    known = value is None or type(value) in (bool, int, list, tuple)
    return "" if known else f"is a {type(value).__name__}, which a checkpoint does not hold"


def _why_not_tensor(tensor: Tensor) -> str:
    if type(tensor) is not Tensor or tensor.layout != torch.strided or tensor.device.type != "cpu":
        return "is not a dense tensor on the CPU"
    if tensor.dtype not in DTYPES or tensor.is_neg() or tensor.requires_grad:
        return f"is a tensor of {tensor.dtype} as no checkpoint holds it"
    return ""


def _shown(where: tuple) -> str:
    """`optimizer[state][10]`."""
    first, *others = [str(key)[:60] for key in where] or [""]
    return first + "".join(f"[{key}]" for key in others)


def not_finite(content: Any) -> str:
    """Where a tensor of `content` holds NaN or infinity, as `model[stem.conv.weight]`; "" where none does."""
    floats = [(where, t) for where, t, _ in _walk(content) if isinstance(t, Tensor) and t.is_floating_point()]
    # A supernet has thousands of small ones: joined, they cost one pass per 1000.
    for start in range(0, len(floats), 1000):
        part = floats[start : start + 1000]
        by_dtype = {dtype: [t.flatten() for _, t in part if t.dtype == dtype] for dtype in {t.dtype for _, t in part}}
        if all(bool(torch.cat(tensors).isfinite().all()) for tensors in by_dtype.values()):
            continue
        return next(_shown(where) for where, tensor in part if not tensor.isfinite().all())
    return ""
