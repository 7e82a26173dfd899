"""ONNX models of a network, run by onnxruntime; the command and what it writes."""

import json
import shutil

import numpy as np
import pytest
import torch
from test_deploy import BITS, SHAPE, both, network, pictures
from test_quantizer_networks import NETWORKS
from tiny_runs import ROOT, contents, run_here

import instantnet
from instantnet.deploy import __main__ as deploy
from instantnet.deploy import images, oracle, parity, stored
from instantnet.deploy.export import Subject, exported, write
from instantnet.deploy.report import FIELDS
from instantnet.engine.errors import UserError
from instantnet.quantize import Precision
from instantnet.quantizers import QUANTIZERS

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from instantnet.deploy import to_onnx  # noqa: E402  onnx is an extra

PRETRAINED = ROOT / "pretrained"
INTEGERS = (onnx.TensorProto.INT4, onnx.TensorProto.INT8, onnx.TensorProto.INT16)


def logits(model, x):
    return parity.onnx_logits(parity.session_of(model), x)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_model_computes_what_torch_does(name):
    """Sums are float; what differs is a code whose value lies between two, by the order of a sum."""
    model = network("derived", name)
    graph, _ = both(model)
    x = pictures(8, 3).numpy()
    for bits in BITS:
        wanted = parity.torch_logits(model, graph, x, bits)
        assert np.abs(logits(to_onnx.onnx_model(graph, bits), x) - wanted).max() < (1e-5 if bits == 32 else 0.05)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("resnet38", "symmetric"), ("mobilenet_v2", "symmetric"), pytest.param("resnet38", "lsq", marks=pytest.mark.full)],
)
def test_sums_of_8_bit_stay_near_torch(kind, name):
    """Agreement on every image whose two largest logits are further apart than the largest difference allows."""
    model = network(kind, name)
    graph, _ = both(model)
    x = pictures(16, 3).numpy()
    names = to_onnx.summed(graph, 8)
    assert names and not to_onnx.summed(graph, 4) and not to_onnx.summed(graph, 32)
    exact = to_onnx.onnx_model(graph, 8)
    rounded = to_onnx.onnx_model(graph, 8, sums=to_onnx.measured(exact, names, x))
    wanted = parity.torch_logits(model, graph, x, 8)
    for form in (exact, rounded):
        found = logits(form, x)
        two = np.sort(wanted, axis=1)[:, -2:]
        clear = two[:, 1] - two[:, 0] > 2 * np.abs(found - wanted).max()
        assert (found.argmax(1) == wanted.argmax(1))[clear].all()
        assert np.abs(found - wanted).max() < np.abs(parity.torch_logits(model, graph, x, 32) - wanted).max()


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_weights_are_integers_and_there_is_no_float_copy(bits):
    graph, _ = both(network("derived", "symmetric"))
    model = to_onnx.onnx_model(graph, bits)
    assert [opset.version for opset in model.opset_import] == [21]
    by_name = {one.name: one for one in model.graph.initializer}
    for node in graph.nodes.values():
        if node.quantized:
            stored_weight = by_name[f"{node.name}.weight_q"]
            assert stored_weight.data_type == INTEGERS[[4, 8, 16].index(bits)]
            assert len(stored_weight.raw_data) == -(-node.layer.weight.numel() * bits // 8)
            own = [one for name, one in by_name.items() if name.startswith(f"{node.name}.")]
            floats = [one for one in own if one.data_type == onnx.TensorProto.FLOAT]
            assert max(int(np.prod(one.dims)) for one in floats) <= 2 * sum(node.layer.weight.shape[:2])
    assert to_onnx.weight_bytes(model)[0] == sum(
        -(-node.layer.weight.numel() * bits // 8) for node in graph.nodes.values() if node.quantized
    )


def test_the_convolutions_of_8_bit_run_as_integers(tmp_path):
    import onnxruntime

    model = network("ends", "symmetric")
    graph, _ = both(model)
    x = pictures(8).numpy()
    ranges = to_onnx.measured(to_onnx.onnx_model(graph, 8), to_onnx.summed(graph, 8), x)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        to_onnx.onnx_model(graph, 8, sums=ranges).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") >= 4 and kinds.count("Conv") + kinds.count("FusedConv") <= 1


def test_a_network_without_32_bit_has_a_float_model():
    model = network("derived", "symmetric", (4, 8))
    graph, _ = both(model)
    x = pictures(4).numpy()
    wanted = parity.torch_logits(model, graph, x, 32)
    assert np.abs(logits(to_onnx.onnx_model(graph, 32), x) - wanted).max() < 1e-5
    assert model.precision.bits == 8


def test_channels_that_are_always_zero():
    """A range of one value, before a depth-wise convolution and elsewhere."""
    model = network("derived", "symmetric")
    with torch.no_grad():
        for norm in model.cells[0].expand_norm.per_bit_width:
            norm.weight[:2], norm.bias[:2] = 0.0, 0.0
        model.cells[0].depthwise.input_quantizer.high[:, :2] = 0.0
        model.cells[0].expand.weight[3] = 0.0
    graph, program = both(model)
    x = pictures(4).numpy()
    for bits in (4, 8, 16):
        wanted = parity.torch_logits(model, graph, x, bits)
        assert np.abs(logits(to_onnx.onnx_model(graph, bits), x) - wanted).max() < 0.05
        assert np.abs(oracle.run(program, x, bits) - wanted).max() < 0.05


# --- the command


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """An export of `pretrained` on 60 random images."""
    folder = tmp_path_factory.mktemp("deploy") / "out"
    assert run_here(deploy, PRETRAINED, "--save", folder, "--images", 60, "--bits", "8,4,32") == 0
    return folder


def test_the_files_of_an_export(export):
    names = {path.name for path in export.iterdir()}
    assert {"switchable.safetensors", "card.json", "report.json", "report.md", "report.svg"} <= names
    assert {name for name in names if name.endswith(".onnx")} == {"4bit.onnx", "8bit.onnx", "32bit.onnx"}
    card = json.loads((export / "card.json").read_text())
    data = instantnet.load(PRETRAINED).data
    assert card["class_names"] == data.class_names and card["image"]["mean"] == list(data.mean)
    assert card["accuracy"]["4"] > 50 and card["parity"] == {
        "images": 60, "source": "random images", "integer_images": 60,
    }  # fmt: skip


def test_the_report_of_an_export(export):
    report = json.loads((export / "report.json").read_text())
    assert list(report) == ["bit_widths", "images", "versions"] and report["images"] == 60
    assert [row["bits"] for row in report["bit_widths"]] == [4, 8, 32]
    assert all(tuple(row) == FIELDS for row in report["bit_widths"])
    four, eight, full = report["bit_widths"]
    assert all(row["top1_agreement"] == 1 for row in report["bit_widths"])
    assert four["weight_bytes"] < 0.6 * eight["weight_bytes"] and full["weight_bytes"] == 0
    for row in report["bit_widths"]:
        assert row["onnx_bytes"] == (export / f"{row['bits']}bit.onnx").stat().st_size
    text = (export / "report.md").read_text()
    assert "will not be fast" in text and "symmetric" in text and "(report.svg)" in text


def test_what_was_exported_predicts(export):
    program = stored.read(export)
    net = instantnet.load(PRETRAINED)
    x = images.random_images(20, program.shape, net.data.mean, net.data.std).pixels
    for bits in program.bit_widths:
        wanted = net(torch.from_numpy(x), bits).numpy()
        from_file = logits(onnx.load(export / f"{bits}bit.onnx"), x)
        for found in (oracle.run(program, x, bits), from_file):
            assert (found.argmax(1) == wanted.argmax(1)).all()


@pytest.mark.full
def test_parity_of_the_pretrained_network():
    net = instantnet.load(PRETRAINED)
    subject = Subject("pretrained", net.model, (3, 16, 16), net.data.mean, net.data.std)
    found = images.random_images(2000, subject.shape, subject.mean, subject.std)
    report = json.loads(exported(subject, found)["report.json"])
    assert [row["top1_agreement"] for row in report["bit_widths"]] == [1.0] * 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--bits", "5"], "error: --bits 5: the network has not that bit-width, but 4, 8, 12, 16"),
        (["--bits", "32"], "no bit-width below 32"),
        (["--bits", "4,x"], "'4,x' is not a list of bit-widths"),
        (["--images", "0"], "'0' is not a number of images"),
        (["--bit", "4"], "unrecognized arguments"),
    ],
)
def test_bad_words_are_one_line_and_write_nothing(tmp_path, capsys, words, said):
    assert run_here(deploy, PRETRAINED, "--save", tmp_path / "out", *words) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1 and len(error) <= 301
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_network_is_one_line(tmp_path, capsys):
    assert run_here(deploy, tmp_path / "weights.pt", "--save", tmp_path / "out") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not list(tmp_path.iterdir())


def test_a_folder_of_other_files_is_left_alone(export, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert run_here(deploy, PRETRAINED, "--save", tmp_path) == 2
    assert "holds other files than an export" in capsys.readouterr().err
    assert contents(tmp_path) == {"mine.txt": b"mine"}
    (tmp_path / "link").symlink_to(export)
    assert run_here(deploy, PRETRAINED, "--save", tmp_path / "link") == 2
    assert "is a link" in capsys.readouterr().err


def test_an_export_is_replaced_as_a_whole(export, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    shutil.copytree(export, folder)
    files = {"card.json": (export / "card.json").read_bytes(), "c/new.c": b"int main;"}
    before = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(UserError, match="No space left on device"):
            write(files, folder)
    assert contents(folder) == before and [path.name for path in tmp_path.iterdir()] == ["out"]
    write(files, folder)
    assert contents(folder) == files and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_of_a_module_of_ones_own(tmp_path):
    model = NETWORKS["derived"](Precision((4, 8, 32), quantizer="nested"))
    for bits in (4, 8, 32):
        model(pictures(4), num_bits=bits)
    subject = Subject("mine", model.eval(), SHAPE)
    files = exported(subject, images.random_images(10, SHAPE, subject.mean, subject.std))
    write(files, tmp_path / "out")
    assert stored.read(tmp_path / "out").nested
