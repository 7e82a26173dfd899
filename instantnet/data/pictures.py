"""An image file as people have them -> an RGB picture of 8 bits, upright, on white; or the reason why it is refused.

docs/data.md states the rules. Files come from strangers: sizes are read from the header, and bounded, before a pixel is
decoded. H x W are pixels.
"""

import os
import stat
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from instantnet.engine.errors import escaped

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # what PIL may take a file for, whatever its name
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
MAX_FILE_BYTES = 128 << 20
MAX_PIXELS = 25_000_000  # 100 MB as PIL holds them
MAX_JPEG_PIXELS = 178_000_000  # decoded at a fraction of their size
REASON_LENGTH = 160  # characters at most
RESCALE = '"Bit depth" in docs/data.md says how to convert'

TRANSPARENT = "transparent: put on white"
TURNED = "turned as their EXIF orientation says"
BAD_EXIF = "with EXIF data that cannot be read: taken as they are"
DEEP = "of more than 8 bits a channel: scaled to 8 by the depth that the file states"
FRAMES = "of several frames: the first one is taken"
LARGE = f"JPEG of more than {MAX_PIXELS // 10**6} million pixels: decoded at a half, quarter or eighth of the size"
COLOURS = "CMYK or another colour model: converted to RGB without a colour profile"

_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION, _LOWEST, _HIGHEST = 258, 262, 274, 340, 341  # TIFF tags


class Unreadable(Exception):
    """Why a file cannot be used, in a few words without its name."""


class Seen(NamedTuple):
    """What a user should know about a file: a line for each kind of file, shown once."""

    kinds: tuple[str, ...] = ()
    brightest: int | None = None
    """The largest value of a channel, of a file that states 16 bits: data of 12 bits show by it."""


def read_picture(path: str, quick: bool = False) -> tuple["Picture", Seen]:
    """The file's picture in mode RGB, and what is to be said about it.

    quick: only to see that the file can be read; of a JPEG the picture is then an eighth of the size. Raises
    `Unreadable`: not a regular file, too large, damaged, of another format, or of a depth that the file does not state.
    """
    from PIL import Image

    try:
        with _opened(path) as file, warnings.catch_warnings(action="ignore"):  # what matters is told by `Seen`
            return _converted(file, quick)
    except Unreadable:
        raise
    except Image.DecompressionBombError:
        raise Unreadable(f"more than {MAX_JPEG_PIXELS // 10**6} million pixels") from None
    except Image.UnidentifiedImageError:
        raise Unreadable(f"not an image ({', '.join(FORMATS)})") from None
    except OSError as error:
        raise Unreadable(_reason(error.strerror or str(error))) from error
    except Exception as error:  # the decoders raise a dozen kinds for a damaged file
        raise Unreadable(_reason(f"damaged: {error}")) from error


def _reason(text: str) -> str:
    return escaped(" ".join(text.split()))[:REASON_LENGTH]


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO that nobody writes answers at once
    with os.fdopen(descriptor, "rb") as file:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise Unreadable("not a regular file")
        if not state.st_size:
            raise Unreadable("empty file")
        if state.st_size > MAX_FILE_BYTES:
            raise Unreadable(f"{state.st_size >> 20} MiB, more than {MAX_FILE_BYTES >> 20}")
        yield file


def _converted(file: BinaryIO, quick: bool) -> tuple["Picture", Seen]:
    from PIL import Image

    picture: Picture = Image.open(file, formats=FORMATS)
    kinds = _bounded(picture, quick)
    if picture.format != "MPO":  # a JPEG with previews of itself
        with suppress(Exception):
            kinds += [FRAMES] if getattr(picture, "is_animated", False) else []
    stated_turn = _tags(picture).get(_ORIENTATION, 1)  # PIL turns these itself
    depth, significant = _depth(picture, file)
    picture.load()
    turn, bad_exif = _orientation(picture)
    kinds += [TURNED] * (max(turn, stated_turn) > 1) + [BAD_EXIF] * bad_exif + [DEEP] * (depth > 8)

    brightest = None
    if picture.mode.startswith("I") or picture.mode == "F":
        picture, brightest = _grey(picture, depth, significant)
    elif depth > 8:
        _lower_transparency(picture)
        brightest = max(high for _, high in _extrema(picture)[:3]) << 8 | 255
    elif depth < 8 and picture.format == "PNG" and isinstance(grey := picture.info.get("transparency"), int):
        picture.info["transparency"] = grey * (1 if picture.mode == "P" else 255 // (2**depth - 1))
    kinds += [COLOURS] * (picture.mode in ("CMYK", "YCbCr", "LAB", "HSV"))
    picture, transparent = on_white(picture)
    kinds += [TRANSPARENT] * transparent
    return _turned(picture, turn), Seen(tuple(kinds), brightest)


def _tags(picture: "Picture") -> Mapping[int, Any]:
    """Of a TIFF file."""
    return getattr(picture, "tag_v2", {}) if picture.format == "TIFF" else {}


def _bounded(picture: "Picture", quick: bool) -> list[str]:
    """Check the size that the header states; a large JPEG is told to be decoded at a fraction of it."""
    width, height = picture.size
    pixels, scalable = width * height, picture.format in ("JPEG", "MPO") and "progressive" not in picture.info
    if pixels > (MAX_JPEG_PIXELS if scalable else MAX_PIXELS):
        raise Unreadable(f"{width} x {height} pixels, more than {MAX_PIXELS // 10**6} million: make it smaller")
    if not scalable or not (quick or pixels > MAX_PIXELS):
        return []
    factor = 8 if quick else next(f for f in (2, 4, 8) if pixels <= MAX_PIXELS * f * f)
    picture.draft(None, (max(1, width // factor), max(1, height // factor)))
    return [LARGE] if pixels > MAX_PIXELS else []


def _depth(picture: "Picture", file: BinaryIO | None) -> tuple[int, int | None]:
    """Bits of a channel as the file states them, and how many of them a PNG's sBIT chunk calls significant. file: None
    of a picture that is loaded, or was made."""
    if picture.format == "PNG" and file is not None:
        return _png_depth(file)
    if picture.format == "TIFF":
        return max(_tags(picture).get(_BITS_PER_SAMPLE, (1,))), None
    deep = picture.mode.startswith("I")  # of PGM too, which PIL has scaled from the file's own maximum to 65535
    return (16 if deep else 8), None


def _png_depth(file: BinaryIO) -> tuple[int, int | None]:
    position, depth, significant = file.tell(), 8, None
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
        length = int.from_bytes(head[:4])
        if head[4:] == b"IHDR":
            depth = file.read(length)[8]
        elif head[4:] == b"sBIT" and length == 1:  # of grey alone
            significant = file.read(1)[0]
        else:
            file.seek(length, os.SEEK_CUR)
        file.seek(4, os.SEEK_CUR)  # its checksum
    file.seek(position)
    return depth, significant if significant and 8 < significant < depth else None


def _grey(picture: "Picture", depth: int, significant: int | None) -> tuple["Picture", int | None]:
    """Grey of more than 8 bits as mode L, scaled by what the file states; and its largest value where that is 16
    bits."""
    from PIL import Image

    is_tiff = picture.format == "TIFF"
    low, high = 0.0, float(2**depth - 1)
    if picture.mode == "F" or (picture.mode == "I" and picture.format not in ("PNG", "PPM")):
        if not is_tiff or not {_LOWEST, _HIGHEST} <= set(_tags(picture)):
            kind = "floating-point numbers" if picture.mode == "F" else f"signed numbers, or of {depth} bits,"
            raise Unreadable(f"pixels are {kind} and the file does not state black and white: {RESCALE}")
        low, high = (float(np.max(_tags(picture)[tag])) for tag in (_LOWEST, _HIGHEST))
        if not high > low:
            raise Unreadable(f"the file states {low:g} as black and {high:g} as white: {RESCALE}")
    values = np.asarray(picture)
    brightest = int(values.max(initial=0)) if picture.format == "PNG" or (is_tiff and depth == 16) else None
    if picture.mode == "F" and not np.isfinite(values).all():
        raise Unreadable("pixels are NaN or infinite")
    if significant is not None and not _fills_the_range(values, depth, significant):
        if brightest is not None and brightest < 2**significant:
            high = float(2**significant - 1)
        brightest = None  # the depth is stated: nothing to suspect
    grey = np.empty(values.shape, dtype=np.uint8)
    for row, line in enumerate(values):  # line by line: floats of the whole would take eight times the memory
        grey[row] = np.clip(np.rint((line - low) * (255 / (high - low))), 0, 255)
    if is_tiff and _tags(picture).get(_PHOTOMETRIC) == 0:  # white is zero; PIL turns only 8 bits round
        grey = 255 - grey
    if (clear := picture.info.get("transparency")) is not None:
        grey[values == clear] = 255
    return Image.fromarray(grey), brightest


def _fills_the_range(values: np.ndarray, depth: int, significant: int) -> bool:
    """Whether samples of `significant` bits are spread over all `depth` bits, as the PNG standard asks for.

    Then the lower bits are zero or repeat the upper ones; those of samples left at the bottom of the range are data.
    """
    spare = depth - significant
    samples, shift = values.astype(np.uint32) >> spare, significant - spare
    repeated = samples >> shift if shift >= 0 else samples << -shift
    scaled = np.rint(samples * ((2**depth - 1) / (2**significant - 1))).astype(np.uint32)
    left = samples << spare
    return bool(((values == left) | (values == left | repeated) | (values == scaled)).all())


def _extrema(picture: "Picture") -> list[tuple[int, int]]:
    found = picture.getextrema()
    return list(found) if isinstance(found[0], tuple) else [found]  # type: ignore[list-item]


def _lower_transparency(picture: "Picture") -> None:
    """The transparent colour of a 16-bit file, of whose pixels PIL keeps the upper 8 bits."""
    if isinstance(colour := picture.info.get("transparency"), tuple):
        picture.info["transparency"] = tuple(value >> 8 for value in colour)


def on_white(picture: "Picture") -> tuple["Picture", bool]:
    """As RGB, and whether any pixel let the white through."""
    from PIL import Image

    if not picture.has_transparency_data:
        return (picture if picture.mode == "RGB" else picture.convert("RGB")), False
    (width, height), transparent = picture.size, False
    result = Image.new("RGB", picture.size, "white")
    rows = max(1, (1 << 20) // width)
    for top in range(0, height, rows):  # strip by strip: less memory
        strip = picture.crop((0, top, width, min(height, top + rows))).convert("RGBA")
        transparent |= strip.getchannel("A").getextrema()[0] < 255  # type: ignore[operator]
        result.paste(strip, (0, top), strip)
    return result, transparent


def upright_on_white(picture: "Picture") -> "Picture":
    """A picture that is open, or was made, as `read_picture` would scale, turn and flatten it: RGB, upright, on white.
    Raises `Unreadable` where nothing states what is black and white."""
    if not all(picture.size):
        raise Unreadable("a picture without a pixel")
    turn, _ = _orientation(picture)
    if picture.mode.startswith("I") or picture.mode == "F":
        picture, _ = _grey(picture, *_depth(picture, getattr(picture, "fp", None)))
    return _turned(on_white(picture)[0], turn)


def _orientation(picture: "Picture") -> tuple[int, bool]:
    """EXIF orientation, 1 to 8, and whether the EXIF data could not be read."""
    try:
        turn = picture.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1, True
    return (turn, False) if turn in range(1, 9) else (1, False)


def _turned(picture: "Picture", turn: int) -> "Picture":
    from PIL.Image import Transpose

    ways = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return picture.transpose(ways[turn]) if turn in ways else picture
