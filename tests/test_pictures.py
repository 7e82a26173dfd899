"""Image files as people have them: what becomes of transparency, EXIF, depth, palettes; and what is refused."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instantnet.data import pictures
from instantnet.data.pictures import Unreadable, read_picture
from instantnet.engine.errors import escaped

RAMP = np.arange(30, dtype=np.uint16).reshape(6, 5)


def pixels(path):
    picture, _ = read_picture(str(path))
    assert picture.mode == "RGB"
    return np.asarray(picture)


def kinds(path):
    return list(read_picture(str(path))[1].kinds)


def refusal(path):
    for quick in (False, True):
        with pytest.raises(Unreadable) as caught:
            read_picture(str(path), quick)
    message = str(caught.value)
    assert message.isprintable() and len(message) <= 200
    return message


def png(path, values, colour=0, chunks=(), depth=16, size=None):
    """Write a PNG by hand: PIL writes no sBIT chunk and no colour of 16 bits. values [H, W] or [H, W, channels]."""
    height, width = size or values.shape[:2]
    kind = ">u2" if depth == 16 else "u1"
    rows = b"".join(b"\0" + row.astype(kind).tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    written = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(written))
    return path


# --- transparency, palettes, orientation


@pytest.mark.parametrize("alpha", [0, 40, 255])
def test_transparency_is_put_on_white(tmp_path, alpha):
    Image.new("RGBA", (3, 2), (10, 20, 30, alpha)).save(path := tmp_path / "x.png")
    expected = [round((alpha * value + (255 - alpha) * 255) / 255) for value in (10, 20, 30)]
    assert (pixels(path) == expected).all()
    assert kinds(path) == ([] if alpha == 255 else [pictures.TRANSPARENT])


def test_grey_with_alpha_is_put_on_white(tmp_path):
    Image.new("LA", (3, 2), (10, 0)).save(path := tmp_path / "x.png")
    assert (pixels(path) == 255).all() and kinds(path) == [pictures.TRANSPARENT]


@pytest.mark.parametrize("transparency", [1, b"\xff\x00\xff"])
@pytest.mark.filterwarnings("error")
def test_a_palette_with_a_transparent_colour(tmp_path, transparency):
    """PIL warns of the second kind, in every worker."""
    picture = Image.fromarray(np.array([[0, 1], [2, 0]], dtype=np.uint8), mode="P")
    picture.putpalette([9, 8, 7, 200, 100, 0, 4, 5, 6])
    picture.save(path := tmp_path / "x.png", transparency=transparency)
    assert pixels(path).tolist() == [[[9, 8, 7], [255] * 3], [[4, 5, 6], [9, 8, 7]]]
    assert kinds(path) == [pictures.TRANSPARENT]


@pytest.mark.parametrize(
    ("mode", "values", "clear"), [("L", [[3, 7]], 7), ("RGB", [[[1, 2, 3], [4, 5, 6]]], (4, 5, 6))]
)
def test_a_transparent_colour_without_a_palette(tmp_path, mode, values, clear):
    Image.fromarray(np.array(values, dtype=np.uint8), mode).save(path := tmp_path / "x.png", transparency=clear)
    assert pixels(path)[0, 1].tolist() == [255] * 3 and pixels(path)[0, 0].tolist() != [255] * 3


def test_a_transparent_grey_of_two_bits(tmp_path):
    """The file counts it in 0..3, PIL the pixels in 0..255."""
    packed = np.array([[0b00_01_10_11]], dtype=np.uint8)
    path = png(tmp_path / "x.png", packed, depth=2, size=(1, 4), chunks=[(b"tRNS", b"\0\1")])
    assert pixels(path)[0, :, 0].tolist() == [0, 255, 170, 255]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, suffix, orientation):
    """Against PIL's own, on a picture of four quarters."""
    from PIL import ImageOps

    quarters = np.kron(np.array([[0, 90], [170, 250]]), np.ones((16, 24))).astype(np.uint8)
    picture = Image.fromarray(quarters).convert("RGB")
    exif = picture.getexif()
    exif[274] = orientation
    options = {"jpg": {"quality": 100}, "webp": {"lossless": True}}.get(suffix, {})
    picture.save(path := tmp_path / f"x.{suffix}", exif=exif, **options)
    with Image.open(path) as file:
        expected = np.asarray(ImageOps.exif_transpose(file))
    assert np.array_equal(pixels(path), expected)
    assert kinds(path) == ([pictures.TURNED] if orientation > 1 else [])
    assert (pixels(path).shape[:2] == (48, 32)) == (orientation >= 5)


def test_exif_that_cannot_be_read_is_said(tmp_path, monkeypatch):
    Image.new("RGB", (3, 2)).save(path := tmp_path / "x.png")

    def fail(self):
        raise SyntaxError("not EXIF")

    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert kinds(path) == [pictures.BAD_EXIF]


def test_of_several_frames_the_first(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(path := tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert (pixels(path) == (255, 0, 0)).all() and kinds(path) == [pictures.FRAMES]


def test_cmyk(tmp_path):
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(path := tmp_path / "x.jpg")
    assert (pixels(path) == 255).all() and kinds(path) == [pictures.COLOURS]


# --- depth


def test_grey_of_16_bits(tmp_path):
    values = np.linspace(0, 65535, 30).astype(np.uint16).reshape(6, 5)
    Image.fromarray(values).save(tmp_path / "x.png")
    Image.fromarray(values).save(tmp_path / "x.tif")
    for name in ("x.png", "x.tif"):
        assert np.array_equal(pixels(tmp_path / name)[..., 1], np.rint(values / 257)), name
        assert read_picture(str(tmp_path / name))[1] == ((pictures.DEEP,), 65535)


@pytest.mark.parametrize("spread", ["shifted", "repeated", "scaled", "not at all"])
@pytest.mark.parametrize("brightest", [4095, 700])
def test_12_bits_that_the_file_states(tmp_path, spread, brightest):
    """sBIT says 12. The standard asks for samples spread over 16 bits; some leave them at the bottom."""
    samples = np.linspace(1, brightest, 600).astype(np.uint32).reshape(20, 30)
    values = {
        "shifted": samples << 4,
        "repeated": samples << 4 | samples >> 8,
        "scaled": np.rint(samples * (65535 / 4095)).astype(np.uint32),
        "not at all": samples,
    }[spread]
    path = png(tmp_path / "x.png", values, chunks=[(b"sBIT", b"\x0c")])
    got = pixels(path)[..., 0].astype(int)
    assert np.abs(got - samples * (255 / 4095)).max() <= 0.75
    assert len(np.unique(got)) == round(brightest * 255 / 4095) - got.min() + 1


def test_12_bits_that_the_file_does_not_state(tmp_path):
    """Left to the whole set to judge: a single file may be dark."""
    path = png(tmp_path / "x.png", RAMP * 140)
    assert read_picture(str(path))[1].brightest == 29 * 140


def test_tiff_of_12_bits_states_them(tmp_path):
    path = tiff(tmp_path / "x.tif", np.array([[0, 4095], [2048, 16]]), bits=12)
    assert pixels(path)[..., 0].tolist() == [[0, 255], [128, 1]]
    assert read_picture(str(path))[1].brightest is None


def tiff(path, values, bits, sample_format=1, photometric=1, extra=()):
    """A little-endian TIFF of one strip; extra: (tag, float)."""
    if bits == 12:
        data = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in values.reshape(-1, 2).tolist())
    else:
        data = values.astype({1: f"<u{bits // 8}", 2: f"<i{bits // 8}", 3: f"<f{bits // 8}"}[sample_format]).tobytes()
    height, width = values.shape
    tags = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 3, height), (279, 4, len(data)), (339, 3, sample_format)]
    entries = [struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags]
    entries += [struct.pack("<HHIf", tag, 11, 1, value) for tag, value in extra]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + b"\0\0\0\0"
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + directory)
    return path


def test_white_is_zero_in_a_tiff_of_16_bits(tmp_path):
    path = tiff(tmp_path / "x.tif", np.array([[0, 65535]]), bits=16, photometric=0)
    assert pixels(path)[..., 0].tolist() == [[255, 0]]


@pytest.mark.parametrize(
    ("bits", "sample_format", "words"), [(32, 3, "floating-point"), (16, 2, "signed"), (32, 1, "32 bits")]
)
def test_numbers_whose_range_no_file_states_are_refused(tmp_path, bits, sample_format, words):
    path = tiff(tmp_path / "x.tif", np.array([[0, 1]]), bits, sample_format)
    assert words in refusal(path) and "docs/data.md" in refusal(path)


def test_a_float_tiff_that_states_its_range(tmp_path):
    path = tiff(tmp_path / "x.tif", np.array([[-1.0, 1.0, 0.2, 5.0]]), 32, 3, extra=[(340, -1.0), (341, 1.0)])
    assert pixels(path)[..., 0].tolist() == [[0, 255, 153, 255]]
    assert kinds(path) == [pictures.DEEP]
    tiff(path, np.array([[-1.0, 1.0]]), 32, 3, extra=[(340, 1.0), (341, 1.0)])
    assert "1 as black and 1 as white" in refusal(path)
    tiff(path, np.array([[np.nan, 1.0]]), 32, 3, extra=[(340, 0.0), (341, 1.0)])
    assert "NaN" in refusal(path)


def test_pgm_is_scaled_by_the_maximum_it_states(tmp_path):
    (path := tmp_path / "x.pgm").write_bytes(b"P5 3 1 4095\n" + struct.pack(">3H", 0, 4095, 2048))
    assert pixels(path)[..., 0].tolist() == [[0, 255, 128]]


@pytest.mark.parametrize("colour", [2, 4, 6])
def test_colour_and_alpha_of_16_bits(tmp_path, colour):
    channels = {2: 3, 4: 2, 6: 4}[colour]
    values = np.full((2, 2, channels), 0x1234)
    values[..., -1] = 0xFFFF if colour != 2 else 0x1234
    path = png(tmp_path / "x.png", values, colour)
    assert (pixels(path) == 0x12).all()
    assert read_picture(str(path))[1] == ((pictures.DEEP,), 0x12FF)


def test_a_transparent_colour_of_16_bits(tmp_path):
    values = np.array([[[0x1200, 0, 0], [0, 0x3400, 0]]])
    path = png(tmp_path / "x.png", values, 2, [(b"tRNS", struct.pack(">3H", 0, 0x3400, 0))])
    assert pixels(path)[0, 1].tolist() == [255] * 3 and pixels(path)[0, 0].tolist() == [0x12, 0, 0]
    grey = png(tmp_path / "grey.png", np.array([[0, 40000]]), 0, [(b"tRNS", struct.pack(">H", 0))])
    assert pixels(grey)[0, :, 0].tolist() == [255, round(40000 / 257)]


# --- what is refused


def test_what_is_not_a_regular_file(tmp_path):
    os.mkfifo(fifo := tmp_path / "x.png")
    assert refusal(fifo) == "not a regular file"
    assert "regular" in refusal("/dev/zero")
    assert "No such file" in refusal(tmp_path / "nowhere.png")
    (link := tmp_path / "link.png").symlink_to(link)
    assert refusal(link)


def test_bytes_are_counted_before_they_are_read(tmp_path):
    with open(path := tmp_path / "x.png", "wb") as file:
        file.truncate(pictures.MAX_FILE_BYTES + (1 << 20))  # sparse
    assert refusal(path) == "129 MiB, more than 128"
    path.write_bytes(b"")
    assert refusal(path) == "empty file"


@pytest.mark.parametrize(("width", "height"), [(13000, 13000), (25_000_001, 1), (2**31 - 1, 2**31 - 1)])
def test_pixels_are_counted_before_they_are_decoded(tmp_path, width, height):
    path = png(tmp_path / "x.png", np.zeros((1, 1)), size=(height, width))
    assert "million" in refusal(path)


def test_large_jpegs_are_decoded_at_a_fraction_of_their_size(tmp_path, monkeypatch):
    Image.new("RGB", (64, 48), "red").save(path := tmp_path / "x.jpg")
    assert pixels(path).shape == (48, 64, 3)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1000)
    assert pixels(path).shape == (24, 32, 3) and kinds(path) == [pictures.LARGE]
    assert read_picture(str(path), quick=True)[0].size == (8, 6)
    Image.new("RGB", (64, 48), "red").save(path, progressive=True)  # decoded as a whole all the same
    assert "64 x 48 pixels" in refusal(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "ppm", "tif", "webp"])
def test_files_cut_short(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path := tmp_path / f"x.{suffix}")
    whole = path.read_bytes()
    assert pixels(path).shape == (40, 40, 3)
    for part in (0.02, 0.5, 0.9):
        path.write_bytes(whole[: int(part * len(whole))])
        assert refusal(path)


def test_other_formats_are_not_opened_whatever_their_names(tmp_path):
    """PIL would start Ghostscript for an EPS file."""
    Image.new("RGB", (4, 4)).save(eps := tmp_path / "x.eps")
    eps.rename(path := tmp_path / "x.png")
    assert refusal(path).startswith("not an image (JPEG, PNG")


def test_names_are_shown_escaped():
    assert escaped("a\x1b[31m\nb\udcffé") == "a\\x1b[31m\\nb\\udcffé"


def test_the_conversion_that_the_docs_give(tmp_path, monkeypatch):
    """On 12 bits in files that state 16: read as what they are."""
    page = (Path(__file__).parent.parent / "docs" / "data.md").read_text()
    (tmp_path / "images").mkdir()
    Image.fromarray(RAMP * 141).save(path := tmp_path / "images" / "x.png")
    monkeypatch.chdir(tmp_path)
    exec(page.split("```python\n")[1].split("```")[0], {})
    assert np.array_equal(pixels(path)[..., 0], np.rint(RAMP * 141 * (255 / 4095)))


def test_the_docs_state_the_limits():
    page = (Path(__file__).parent.parent / "docs" / "data.md").read_text()
    assert " ".join(pictures.SUFFIXES) in page and f"{pictures.MAX_FILE_BYTES >> 20} MiB" in page
    assert f"{pictures.MAX_PIXELS // 10**6} million pixels" in page
    assert f"{pictures.MAX_JPEG_PIXELS // 10**6} million)" in page
