"""`--dataset path/to/file.py:function`: what may be in the sets, and the answers to mistakes in the user's code."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import TINY_NETWORK, load, run_here

from instantnet import train, train_search
from instantnet.data.image_sets import MemoryImages
from instantnet.data.own import OwnImages
from instantnet.dataloader import load_data
from instantnet.engine.checkpoint import save_checkpoint
from instantnet.engine.errors import UserError

OWN = """
import numpy as np, torch
from PIL import Image

class Images(torch.utils.data.Dataset):
    def __init__(self, count):
        self.count = count
    def __len__(self):
        return self.count
    def __getitem__(self, i):
        if i >= self.count:
            raise IndexError(i)
        return Image.new("RGB", (5, 6), (i, 2 * i, 0)), i % 3

def images():
    return Images(9), Images(6)
"""


@pytest.fixture
def own(tmp_path):
    (path := tmp_path / "own.py").write_text(OWN)
    return path


def opened(path, function="images", num_classes=None, **settings):
    return load_data(f"{path}:{function}", "", 6, 5, num_classes, crop_padding=0, flip=False, **settings)


def refused(*words, path, **settings):
    with pytest.raises(UserError) as caught:
        opened(path, **settings)
    message = str(caught.value)
    assert "\n" not in message and all(str(word) in message for word in words), message


@pytest.mark.parametrize("memory_limit_mb", [0, 1])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_and_labels(own, memory_limit_mb, num_workers):
    data = opened(own, memory_limit_mb=memory_limit_mb, num_workers=num_workers)
    assert isinstance(data.train, MemoryImages if memory_limit_mb else OwnImages)
    assert (len(data.train), len(data.test), data.class_names) == (9, 6, ["0", "1", "2"])
    [(images, labels)] = data.train.read([(torch.arange(9), None)])
    assert images.shape == (9, 3, 6, 5) and images.dtype == torch.uint8
    assert images[:, :, 0, 0].tolist() == [[i, 2 * i, 0] for i in range(9)]
    assert labels.tolist() == [i % 3 for i in range(9)]
    assert sum(len(labels) for _, labels in data.batches(batch_size=4, shuffle=True)) == 8
    assert data.mean == pytest.approx((4 / 255, 8 / 255, 0))


@pytest.mark.parametrize("limit", [0, 1])
def test_batches_are_the_same_in_memory_and_read_one_by_one(own, limit):
    batches = opened(own, memory_limit_mb=limit).batches(batch_size=4, seed=1)
    expected = opened(own, memory_limit_mb=1 - limit).batches(batch_size=4, seed=1)
    for got, want in zip(batches, expected, strict=True):
        assert all(map(torch.equal, got, want))


PICTURE = np.arange(90, dtype=np.uint8).reshape(6, 5, 3)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(PICTURE), PICTURE),
        (PICTURE, PICTURE),
        (PICTURE[..., 0], PICTURE[..., :1].repeat(3, 2)),
        (PICTURE[..., :1], PICTURE[..., :1].repeat(3, 2)),
        (torch.from_numpy(PICTURE).permute(2, 0, 1), PICTURE),
        (torch.from_numpy(PICTURE).permute(2, 0, 1) / 255, PICTURE),
        (torch.from_numpy(PICTURE)[..., 0], PICTURE[..., :1].repeat(3, 2)),
        (Image.new("RGBA", (5, 6), (0, 0, 0, 0)), np.full_like(PICTURE, 255)),
    ],
)
@pytest.mark.parametrize("label", [1, np.int64(1), torch.tensor(1)])
def test_what_an_image_and_a_label_may_be(own, monkeypatch, image, expected, label):
    data = opened_with([(image, label)], monkeypatch, own)
    assert np.array_equal(data.train.images[0].permute(1, 2, 0).numpy(), expected)
    assert data.train.labels.tolist() == [1] and data.num_classes == 2


def opened_with(items, monkeypatch, own, **settings):
    monkeypatch.setattr("instantnet.data.own.called", lambda *_: (items, items))
    return opened(own, **settings)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ((PICTURE.astype(float), 0), "float64 [6, 5, 3]"),
        ((PICTURE.transpose(2, 0, 1), 0), "uint8 [3, 6, 5]"),
        ((torch.full((3, 6, 5), -0.1), 0), "outside 0..1"),
        ((torch.full((3, 6, 5), torch.nan), 0), "outside 0..1"),
        ((Image.new("I;16", (5, 6)), 0), "I;16"),
        (("x.png", 0), "str"),
        ((PICTURE, -1), "a label is -1"),
        ((PICTURE, 0.5), "a label is 0.5"),
        ((PICTURE, "cat"), "a label is 'cat'"),
        ((PICTURE, torch.ones(2)), "a label is"),
        (3, "unpack"),
    ],
)
def test_what_they_may_not_be(own, monkeypatch, item, words):
    with pytest.raises(UserError) as caught:
        opened_with([item], monkeypatch, own)
    assert "item 0: " in str(caught.value) and words in str(caught.value)


def test_classes_have_the_names_that_the_training_set_gives(own):
    own.write_text(OWN + "def named():\n    sets = images()\n    sets[0].classes = list('abc')\n    return sets\n")
    assert opened(own, "named").class_names == ["a", "b", "c"]
    assert opened(own, num_classes=5).class_names == list("01234")
    refused("num_classes is 4", "has 3 classes", path=own, function="named", num_classes=4)
    refused("a label is 2, of 2 classes", path=own, num_classes=2)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("x = 1\nraise KeyError('what')\n", "line 2: KeyError: 'what'"),
        ("x = 1\n\nx = = 2\n", "line 3: SyntaxError: invalid syntax"),
        ("import nothing_of_this_name\n", "line 1: ModuleNotFoundError"),
        ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
        ("def images():\n    import json\n    return json.loads('{')\n", "line 3: JSONDecodeError"),
        ("def images():\n    return 3\n", "TypeError: returned int"),
        ("def images():\n    return [], [1]\n", "ValueError: one of the two sets is empty"),
        ("def images():\n    return iter([1]), [1]\n", "TypeError: object of type"),
        ("images = 3\n", "has no function 'images'"),
        ("", "has no function 'images'"),
        (OWN.replace("        return Image", "        1 / (i - 4)\n        return Image"), "item 4: "),
        (
            OWN.replace("        return Image", "        1 / (i - 4)\n        return Image"),
            "line 13: ZeroDivisionError",
        ),
    ],
)
@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_in_the_file_is_one_line_with_its_line(own, code, words, num_workers):
    own.write_text(code)
    refused("setting dataset", own, words, path=own, num_workers=num_workers)


def test_a_worker_that_is_killed_is_one_line(own):
    """As by the kernel, where memory runs out."""
    own.write_text(
        OWN.replace(
            "        return Image", "        __import__('os').kill(__import__('os').getpid(), 9)\n        return Image"
        )
    )
    refused("process that decodes images was killed", "num_workers", path=own, num_workers=1)


def test_no_such_file(tmp_path):
    refused("no file", tmp_path / "nowhere.py", path=tmp_path / "nowhere.py")


def test_the_file_may_import_its_neighbours(own):
    (own.parent / "neighbour_of_own.py").write_text(OWN)
    own.write_text("from neighbour_of_own import images\n")
    assert len(opened(own).train) == 9


def test_both_stages_and_the_evaluation(own, tmp_path, capsys):
    words = [*TINY_NETWORK, "--image_height", 8, "--image_width", 8, "--device", "cpu", "--nepochs", 1]
    words += ["--dataset", f"{own}:images", "--batch_size", 4, "--num_workers", 0]
    assert run_here(train_search, *words, "--save", tmp_path / "search") == 0
    assert f"--dataset {own}:images" in capsys.readouterr().out  # of the next command
    folder = tmp_path / "train"
    assert run_here(train, *words, "--load_path", tmp_path / "search", "--save", folder) == 0
    evaluation = ["--eval_only", "--save", folder, "--device", "cpu"]
    own.rename(moved := tmp_path / "moved.py")
    assert run_here(train, *evaluation, "--dataset", f"{moved}:images") == 0
    capsys.readouterr()
    assert run_here(train, *evaluation) == 2
    assert f"trained on {own}:images" in capsys.readouterr().err


def test_a_checkpoint_never_has_a_file_run(own, tmp_path, train_run, capsys):
    content = load(train_run.folder / "weights.pt")
    own.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + OWN)
    content["config"]["dataset"] = f"{own}:images"
    save_checkpoint(tmp_path / "weights.pt", content)
    assert run_here(train, "--eval_only", "--pretrain", tmp_path / "weights.pt", "--device", "cpu") == 2
    assert "--dataset" in capsys.readouterr().err and not (tmp_path / "ran").exists()
