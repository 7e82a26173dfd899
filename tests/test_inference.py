"""`instantnet.load`, and `--eval_only` on a machine without the training images."""

import re
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import ROOT, TINY_NETWORK, load, run_here

import instantnet
from instantnet import train
from instantnet.engine.checkpoint import save_checkpoint
from instantnet.engine.errors import UserError

COLOURS = {"blue": (20, 30, 200), "green": (30, 190, 40), "red": (210, 40, 30)}


def write_images(folder, count, rng, classes=COLOURS):
    """`count` noisy pictures a class, of 12 x 10 pixels."""
    for name, colour in classes.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.clip(np.array(colour) + rng.integers(-40, 40, (10, 12, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder of a run, folder of its images): a network that tells three colours apart."""
    folder = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for subset, count in (("train", 20), ("val", 5)):
        write_images(folder / "images" / subset, count, rng)
    save_checkpoint(folder / "arch.pt", {"ops": ["k3_e3", "k3_e1"]})
    words = [*TINY_NETWORK, "--dataset", "image_folder", "--dataset_path", folder / "images", "--image_height", 8]
    words += ["--image_width", 8, "--crop_padding", 1, "--num_workers", 0, "--device", "cpu", "--batch_size", 10]
    words += ["--load_path", folder / "arch.pt", "--nepochs", 6, "--lr", 0.1, "--save", folder / "run"]
    assert run_here(train, *words) == 0
    return folder / "run", folder / "images"


def evaluated(run, images, capsys) -> dict[int, float]:
    """Bit-width -> accuracy that `--eval_only` prints."""
    words = ["--eval_only", "--pretrain", run, "--dataset_path", images, "--device", "cpu"]
    assert run_here(train, *words) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    return {int(bits): float(value) for bits, value in re.findall(r"(\d+)b (\S+)", line)}


def test_other_training_images_or_none_change_nothing(trained, tmp_path, capsys):
    run, images = trained
    expected = load(run / "weights.pt")["accuracy"]
    assert evaluated(run, images, capsys) == pytest.approx(expected, abs=0.006)
    shutil.copytree(images / "val", tmp_path / "val")
    assert evaluated(run, tmp_path, capsys) == pytest.approx(expected, abs=0.006)
    write_images(tmp_path / "train", 3, np.random.default_rng(1), dict.fromkeys(COLOURS, (0, 0, 0)))
    assert evaluated(run, tmp_path, capsys) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(
    ("renamed", "part"), [(("red", "rot"), "'red' is missing and 'rot' is unknown"), (("red", "azure"), "'azure'")]
)
def test_other_classes_are_refused_by_name(trained, tmp_path, capsys, renamed, part):
    run, images = trained
    shutil.copytree(images / "val", tmp_path / "val")
    (tmp_path / "val" / renamed[0]).rename(tmp_path / "val" / renamed[1])
    assert run_here(train, "--eval_only", "--pretrain", run, "--dataset_path", tmp_path, "--device", "cpu") == 2
    err = capsys.readouterr().err
    assert part in err and "weights.pt" in err and err.count("\n") == 1


def test_the_network_to_use(trained, capsys):
    """Its logits give the accuracy that the run reported, picture by picture, at every bit-width."""
    run, images = trained
    net = instantnet.load(run)
    assert net.bits == (4, 8, 32) and net.class_names == list(COLOURS)
    expected = load(run / "weights.pt")["accuracy"]
    files = sorted((images / "val").glob("*/*.png"))
    for bits in net.bits:
        right = sum(net.predict(Image.open(file), bits=bits)[0][0] == file.parent.name for file in files)
        assert 100 * right / len(files) == pytest.approx(expected[bits])
    chances = net.predict(Image.open(files[0]))
    assert sum(chance for _, chance in chances) == pytest.approx(1)
    assert [chance for _, chance in chances] == sorted((chance for _, chance in chances), reverse=True)
    assert chances == net.predict(Image.open(files[0]), bits=32)
    assert {name for name, _ in net.predict(Image.open(files[0]).convert("P"))} == set(COLOURS)


def test_logits_are_those_of_normalised_tensors(trained):
    run, images = trained
    net = instantnet.load(run / "weights.pt")
    file = next((images / "val").glob("red/*.png"))
    x = net.normalised(Image.open(file))
    data = load(run / "weights.pt")["data"]
    small = Image.open(file).convert("RGB").resize((8, 8), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(data[name]).view(3, 1, 1) for name in ("mean", "std"))
    by_hand = (pixels - mean) / std
    assert torch.allclose(x, by_hand) and not net(x[None]).requires_grad
    assert not torch.equal(net(x[None], bits=4), net(x[None], bits=8))
    with pytest.raises(ValueError, match="bit-width 5"):
        net(x[None], bits=5)


def test_a_file_of_format_1_names_no_classes():
    net = instantnet.load(ROOT / "tests" / "data" / "format1")
    with pytest.raises(UserError, match="earlier version"):
        net.predict(Image.new("RGB", (8, 8)))


def test_nothing_is_loaded_before_it_is_used():
    import subprocess

    program = "import sys, instantnet; assert 'load' in dir(instantnet); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


# --- images as PIL opens or makes them


def test_16_bits_are_scaled_and_not_cut(trained, tmp_path):
    """As the same values of 8 bits: of a file that is open, of one that is read, and of a picture that was made."""
    net = instantnet.load(trained[0])
    values = np.random.default_rng(0).integers(0, 256, (9, 7), dtype=np.uint8)
    expected = net.normalised(Image.fromarray(values))
    deep = Image.fromarray(values.astype(np.uint16) * 257)
    deep.save(tmp_path / "deep.png")
    read = Image.open(tmp_path / "deep.png")
    read.load()
    for picture in (deep, Image.open(tmp_path / "deep.png"), read):
        torch.testing.assert_close(net.normalised(picture), expected, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_without_a_stated_white_are_refused(trained, tmp_path, mode):
    net = instantnet.load(trained[0])
    picture = Image.new(mode, (5, 5), 1)
    picture.save(tmp_path / "numbers.tiff")
    for one in (picture, Image.open(tmp_path / "numbers.tiff")):
        with pytest.raises(UserError, match="Bit depth"):
            net.predict(one)


@pytest.mark.parametrize(
    ("image", "bits", "part"),
    [
        ("cat.png", None, "expected a PIL image, got a str"),
        (None, None, "expected a PIL image, got a NoneType"),
        (Image.new("RGB", (0, 3)), None, "without a pixel"),
        (Image.new("RGB", (3, 3)), [4], r"bits = \[4\]: the network has 4, 8, 32"),
        (Image.new("RGB", (3, 3)), 5, "bits = 5: the network has 4, 8, 32"),
    ],
)
def test_what_is_no_image_or_bit_width_is_named(trained, image, bits, part):
    with pytest.raises(UserError, match=part):
        instantnet.load(trained[0]).predict(image, bits=bits)
