"""C loops that follow a mapping: the words they move are those that the cost model counts."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_deploy import both, network, pictures
from tiny_runs import ROOT, run_here

import hw_model
from instantnet.deploy import __main__ as deploy
from instantnet.deploy.export import Subject, lowered, mappings_of
from instantnet.deploy.mapped import MappedLayer, check_device, expected
from instantnet.deploy.to_c import c_files
from instantnet.engine.errors import UserError

sys.path.append(str(Path(__file__).parent / "oracle"))
import random_cases

RUNTIME = ROOT / "instantnet/deploy/runtime"
SANITIZED = "-O1 -fsanitize=address,undefined -fno-sanitize-recover=all"
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror"]
needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc")

PROGRAM = """
#define INSTANTNET_WIDEST 16
#define INSTANTNET_LONGEST_AXIS {longest}
#include <stdio.h>
#include "mapped.h"
static const int32_t zeros[1] = {{3}};
static const layer_numbers numbers = {{.zero = zeros}};

/* 1 where sums are those of plain loops. */
static int right(const problem *p, const int16_t *w, const code_t *x, const word_t *o) {{
    const int *z = p->size;
    int at = 0, equal = 1;
    for (int n = 0; n < z[0]; ++n) for (int g = 0; g < z[1]; ++g) for (int k = 0; k < z[2]; ++k)
    for (int y = 0; y < z[4]; ++y) for (int q = 0; q < z[5]; ++q, ++at) {{
        int64_t a = 0, sum = 0;
        for (int c = 0; c < z[3]; ++c) for (int r = 0; r < z[6]; ++r) for (int s = 0; s < z[7]; ++s) {{
            const int h = y * p->stride_h + r * p->dilation_h - p->pad_h;
            const int v = q * p->stride_w + s * p->dilation_w - p->pad_w;
            if (h < 0 || v < 0 || h >= p->height || v >= p->width) continue;
            const int code = x[(((n * z[1] + g) * z[3] + c) * p->height + h) * p->width + v] - 3;
            a += w[(((g * z[2] + k) * z[3] + c) * z[6] + r) * z[7] + s] * code;
            sum += code;
        }}
        equal &= a == o[at].a && sum == o[at].s;
    }}
    return equal;
}}
{functions}
int main(void) {{
{calls}
    return 0;
}}
"""
CALL = """    {{
        static int16_t w[{W}]; static code_t x[{I}]; static word_t o[{O}];
        for (int i = 0; i < {W}; ++i) w[i] = (int16_t)(i * 7 % 15 - 7);
        for (int i = 0; i < {I}; ++i) x[i] = (code_t)(i * 11 % 16);
        memory m = {{w, x, &numbers, 1, o}};
        {name}(&m);
        printf("%d", right(&{name}_problem, w, x, o));
        for (int l = 0; l < {levels}; ++l) for (int t = 0; t < 3; ++t) for (int k = 0; k < 4; ++k)
            printf(" %lld", (long long){name}_counters[l][t][k]);
        printf("\\n");
    }}"""


def random_case(seed):
    """A device of plain multicast, a layer, a mapping of it: strides, padding, dilation, overshoot, bypasses."""
    rng = random.Random(seed)
    plain = {"forward_inputs": False, "input_sharing": "union", "input_words": "real"}
    device = hw_model.load_device(random_cases.device_fields(rng) | plain)
    layer, loops = random_cases.layer_and_loops(rng, list(device.slots))
    mapping = {slot: [list(pair) for pair in pairs] for slot, pairs in loops.items()}
    if rng.random() < 0.4:
        mapping["bypass"] = {rng.choice(device.level_names[1:]): rng.sample("WIO", rng.choice([1, 1, 2]))}
    return hw_model.Layer(**layer), mapping, device


def check_cases(seeds, folder):
    cases = [random_case(seed) for seed in seeds]
    layers = [MappedLayer(f"case{i}", *case) for i, case in enumerate(cases)]
    calls = [CALL.format(name=one.name, levels=len(one.levels), **{t: one.words(t) for t in "WIO"}) for one in layers]
    text = PROGRAM.format(longest=max(one.longest_axis for one in layers), calls="\n".join(calls),
                          functions="\n".join(one.function() for one in layers))  # fmt: skip
    (folder / "cases.c").write_text(text)
    command = ["gcc", *STRICT, "-O1", "-DCOUNT", f"-I{RUNTIME}", folder / "cases.c", "-o", folder / "cases"]
    subprocess.run(command, check=True)
    lines = subprocess.run([folder / "cases"], capture_output=True, text=True, check=True).stdout.splitlines()
    for seed, line, (layer, mapping, device) in zip(seeds, lines, cases, strict=True):
        right, *counters = map(int, line.split())
        assert right, f"sums of case {seed}"
        cost = hw_model.evaluate(layer, mapping, device, 16)
        assert counters == expected(cost, device.level_names), f"counters of case {seed}"


@needs_gcc
def test_counters_are_those_of_the_cost_model(tmp_path):
    check_cases(range(15), tmp_path)


@needs_gcc
@pytest.mark.full
@pytest.mark.parametrize("first", range(15, 1015, 100))
def test_more_counters_are_those_of_the_cost_model(first, tmp_path):
    check_cases(range(first, first + 100), tmp_path)


def test_the_random_cases_have_what_they_should():
    cases = [random_case(seed) for seed in range(1000)]
    layers = [layer for layer, _, _ in cases]
    assert sum(layer.stride_h > 1 or layer.stride_w > 1 for layer in layers) > 100
    assert sum(layer.dilation_h > 1 or layer.dilation_w > 1 for layer in layers) > 100
    assert sum(layer.pad_top > 0 or layer.pad_left > 0 for layer in layers) > 100
    costs = [hw_model.evaluate(*case, 16) for case in cases[:50]]
    assert sum(cost.padded_macs > cost.macs for cost in costs) > 10


# --- a network with its mappings


def report_of(program, bit_widths, **changes):
    """A report.json with a plain mapping of every layer: rows of outputs in the buffer, channels along the array."""
    layers = []
    for name, (dims, mapping) in plain_mappings(program).items():
        layers.append({"name": name, "dims": dims, "mapping": mapping})
    rows = [{"bits": bits, "edp_js": 1e-9 * bits, "layers": layers} for bits in bit_widths]
    return {"device": "eyeriss", "bit_widths": rows} | changes


def plain_mappings(program):
    from instantnet.deploy.mapped import layer_of

    found = {}
    for step in program.steps:
        if step.is_layer:
            layer = layer_of(step, program.steps[step.inputs[0]].shape)
            mapping = {
                "dram": [["G", layer.G], ["K", -(-layer.K // 2)]],
                "glb": [["P", layer.P], ["C", layer.C], ["Q", layer.Q], ["R", layer.R]],
                "spatial_x": [["K", 2]],
                "rf": [["S", layer.S]],
            }
            found[step.name] = (layer.to_dict(), mapping)
    return found


@needs_gcc
@pytest.mark.parametrize("flags", ["-O1", pytest.param(SANITIZED, marks=pytest.mark.full)], ids=["plain", "sanitized"])
def test_a_mapped_network_computes_the_same_and_counts(flags, tmp_path):
    _, program = both(network("ends", "nested", (4, 8, 32)))
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report_of(program, (4, 8))))
    mappings = mappings_of(path, program)
    for name, content in c_files(program, pictures(1).numpy(), mappings).items():
        (tmp_path / name).write_bytes(content)
    command = ["make", "-C", tmp_path, "-s", "clean", "count", "CC=gcc", f"CFLAGS={flags}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "all logits are those of the NumPy form" in result.stdout
    shown = {}
    for line in result.stdout.splitlines():
        if line[0].isdigit():
            bits = int(line.split()[0])
        elif len(line.split()) == 7 and line.split()[2] in "WIO":
            name, level, tensor, *counts = line.split()
            shown[bits, name, level, tensor] = list(map(int, counts))
    device = hw_model.load_device("eyeriss")
    for name, (dims, mapping) in plain_mappings(program).items():
        cost = hw_model.evaluate(dims, mapping, device, 8)
        wanted = np.array(expected(cost, device.level_names)).reshape(len(device.levels), 3, 4)
        for i, level in enumerate(device.level_names):
            for j, tensor in enumerate("WIO"):
                for bits in (4, 8):
                    assert shown[bits, name, level, tensor] == wanted[i, j].tolist()


def test_hls_pragmas_stand_along_the_array():
    layer, mapping, device = next(case for case in map(random_case, range(99)) if case[1].get("spatial_x"))
    text = MappedLayer("case", layer, mapping, device).function()
    lines = text.splitlines()
    unrolled = [lines[i - 2] for i, line in enumerate(lines) if line == "#pragma HLS UNROLL"]
    assert unrolled and all("spatial_" in line for line in unrolled)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda report: report["bit_widths"].pop(0), "no mappings at 4 bit, only at [8]"),
        (lambda report: report["bit_widths"][0]["layers"].pop(0), "of another network: cells.0.conv of this one"),
        (lambda report: report["bit_widths"][1]["layers"][0]["dims"].update(K=99), "the report has another at 4 bit"),
        (lambda report: report.pop("device"), "no report.json of the mapper ('device' is missing)"),
        (lambda report: report.update(device="shidiannao"), "device shidiannao has "),
    ],
    ids=["width", "layer", "size", "field", "device"],
)
def test_a_report_that_does_not_fit_is_one_line(damage, said, tmp_path, capsys):
    import instantnet

    net = instantnet.load(ROOT / "pretrained")
    _, program = lowered(Subject("pretrained", net.model, (3, 16, 16)), (4, 8))
    report = report_of(program, (4, 8))
    damage(report)
    (tmp_path / "report.json").write_text(json.dumps(report))
    words = ["--bits", "4,8", "--map", tmp_path / "report.json", "--save", tmp_path / "out", "--images", "1"]
    assert run_here(deploy, ROOT / "pretrained", *words) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_groups_of_a_report_are_not_emitted_and_that_is_said(tmp_path, capsys):
    import instantnet

    net = instantnet.load(ROOT / "pretrained")
    _, program = lowered(Subject("pretrained", net.model, (3, 16, 16)), (4, 8))
    report, loops = report_of(program, (4, 8)), []
    for name in ("alone", "grouped"):
        (tmp_path / "report.json").write_text(json.dumps(report))
        words = ["--bits", "4,8", "--map", tmp_path / "report.json", "--save", tmp_path / name, "--images", "1"]
        assert run_here(deploy, ROOT / "pretrained", *words) == 0
        line = "the report has fused groups too; the C layers have the loops of its mappings layer by layer"
        assert (line in capsys.readouterr().out) == (name == "grouped")
        loops.append({path.name: path.read_bytes() for path in (tmp_path / name / "c").glob("*.[ch]")})
        report["bit_widths"][0]["fused"] = {"groups": [{"first": 0}]}
    assert loops[0] == loops[1] != {}


def test_a_device_that_no_program_follows_is_named():
    check_device(hw_model.load_device("eyeriss"))
    with pytest.raises(UserError, match="forward_inputs"):
        check_device(hw_model.load_device("shidiannao"))
