"""The C network: bit for bit the NumPy form, with every compiler that is there."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from random_networks import random_network
from test_deploy import both, network, pictures
from tiny_runs import ROOT

import instantnet
from instantnet.deploy import oracle, stored
from instantnet.deploy.arena import planned, readers_end
from instantnet.deploy.export import Subject, lowered
from instantnet.deploy.to_c import c_bytes, c_files, flash_bytes
from instantnet.quantizers import QUANTIZERS

COMPILERS = [pytest.param(name, marks=pytest.mark.skipif(not shutil.which(name), reason=f"no {name}"))
             for name in ("gcc", "clang")]  # fmt: skip
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off"]
ARM = shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm")
pytestmark = pytest.mark.skipif(not (shutil.which("gcc") or shutil.which("clang")), reason="no C compiler")


def written(program, images, folder):
    folder.mkdir(exist_ok=True)
    for name, content in c_files(program, images).items():
        (folder / name).write_bytes(content)
    return folder


class Library:
    """The C network, called from here."""

    def __init__(self, program, folder: Path, compiler="gcc", flags=("-O0",)):
        written(program, np.zeros((1, *program.shape), np.float32), folder)
        target = folder / "network.so"
        sources = [folder / "instantnet.c", folder / "tables.c"]
        subprocess.run([compiler, *STRICT, *flags, "-shared", "-fPIC", "-o", target, *sources], check=True)
        self.library, self.classes = ctypes.CDLL(str(target)), program.classes
        self.set_bits = self.library.instantnet_set_bits

    def __call__(self, image, bits=None):
        assert bits is None or self.set_bits(bits) == 0
        image = np.ascontiguousarray(image, np.float32)
        logits = np.zeros(self.classes, np.float32)
        at = ctypes.POINTER(ctypes.c_float)
        self.library.instantnet_run(image.ctypes.data_as(at), logits.ctypes.data_as(at))
        return logits


def is_bit_equal(program, library, images):
    for bits in program.bit_widths:
        wanted = oracle.run(program, images, bits)
        found = np.stack([library(image, bits) for image in images])
        assert np.array_equal(found, wanted), f"{bits} bit"


def of_random(seed, folder):
    model, shape = random_network(seed)
    _, program = lowered(Subject("random", model, shape))
    images = 4 * torch.rand(3, *shape).numpy() - 1
    is_bit_equal(program, Library(program, folder), images)


@pytest.mark.parametrize("seed", [*range(12), 139])  # 139: a layer with the same codes at two bit-widths
def test_c_equals_the_numpy_form_on_random_networks(seed, tmp_path):
    of_random(seed, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("seed", [seed for seed in range(12, 200) if seed != 139])
def test_c_equals_the_numpy_form_on_more_random_networks(seed, tmp_path):
    of_random(seed, tmp_path)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_test_vectors_of_the_pretrained_network(compiler, tmp_path):
    net = instantnet.load(ROOT / "pretrained")
    _, program = lowered(Subject("pretrained", net.model, (3, 16, 16), net.data.mean, net.data.std))
    written(program, pictures(2, shape=(3, 16, 16)).numpy(), tmp_path)
    for target in ("test", "sanitize"):
        result = subprocess.run(
            ["make", "-C", tmp_path, "-s", "clean", target, f"CC={compiler}"], capture_output=True, text=True
        )
        assert (result.returncode, result.stdout) == (0, "all logits are those of the NumPy form\n"), result.stderr
    broken = (tmp_path / "tables.c").read_text().replace("multiplier5_4[48] = {\n    ", "multiplier5_4[48] = {\n    1")
    (tmp_path / "tables.c").write_text(broken)
    result = subprocess.run(["make", "-C", tmp_path, "-s", "clean", "test"], capture_output=True, text=True)
    assert result.returncode and "4 bit, image 0" in result.stdout


@pytest.mark.parametrize("switches", [20_000, pytest.param(1_000_000, marks=pytest.mark.full)])
def test_switching_leaves_nothing_behind(switches, tmp_path):
    """After any of many random switches the logits are those of a fresh start."""
    _, program = both(network("derived", "nested"))
    library = Library(program, tmp_path, flags=("-O2",))
    images = pictures(3).numpy()
    fresh = {bits: oracle.run(program, images, bits) for bits in program.bit_widths}
    assert np.array_equal(library(images[0]), fresh[program.bit_widths[-1]][0])
    rng, last = np.random.default_rng(0), program.bit_widths[-1]
    for turn, bits in enumerate(rng.choice([*program.bit_widths, 5], switches).tolist()):
        switched = library.set_bits(bits)
        assert switched == (-1 if bits == 5 else 0)
        last = last if bits == 5 else bits
        if turn % (switches // 200) == 0:
            image = int(rng.integers(3))
            assert np.array_equal(library(images[image]), fresh[last][image])


@pytest.mark.parametrize("name", QUANTIZERS)
def test_flash_is_that_of_the_integers_on_disk(name):
    _, program = both(network("derived", name))
    behind = ("weight_scale", "weight_offset", "gain", "bias", "input_scale", "input_offset")
    layers = [step.name for step in program.steps if step.is_layer]
    computed_with = [
        part.nbytes
        for name, part in stored.tensors(program).items()
        if not (name.endswith(behind) and name.startswith(tuple(f"{layer}." for layer in layers)))
    ]
    assert flash_bytes(program) <= 1.02 * sum(computed_with)
    assert all(0 < size <= flash_bytes(program) for size in c_bytes(program).values())


def test_values_that_are_needed_at_once_lie_apart():
    _, program = both(network("resnet38", "symmetric"))
    start, memory = planned(program)
    last = readers_end(program)
    for i, one in enumerate(program.steps[:-1]):
        for j, other in enumerate(program.steps[i + 1 : last[i] + 1], i + 1):
            if other.op != "flatten" and one.kind == other.kind and i in start and j in start:
                a, b = start[i], start[j]
                assert a + int(np.prod(one.shape)) <= b or b + int(np.prod(other.shape)) <= a
    whole = sum(int(np.prod(step.shape)) for step in program.steps if step.kind == "wide")
    assert memory["wide"] < whole / 4


STARTUP = """
#include <stdint.h>
extern int main(void);
extern void _exit(int);
extern uint32_t __StackTop;
extern void initialise_monitor_handles(void);
void reset(void);
void reset(void) {
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20;  /* CPACR: the FPU, on */
    initialise_monitor_handles();
    _exit(main());
}
__attribute__((section(".vectors"), used)) static void *const table[] = {&__StackTop, (void *)reset};
"""
LAYOUT = """
MEMORY { flash (rx) : ORIGIN = 0x0, LENGTH = 4M  ram (rwx) : ORIGIN = 0x20000000, LENGTH = 4M }
ENTRY(reset)
SECTIONS {
  .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) *(.ARM.ex*) } > flash
  .data : { *(.data*) *(.bss*) *(COMMON) end = .; } > ram
  __StackTop = ORIGIN(ram) + LENGTH(ram);
}
"""


@pytest.mark.skipif(not ARM, reason="no gcc-arm-none-eabi or qemu-system-arm")
def test_the_test_vectors_on_a_cortex_m4(tmp_path):
    """Under an emulator: of its answer, not of its speed."""
    _, program = both(network("derived", "nested", (4, 8, 32)))
    written(program, pictures(1).numpy(), tmp_path)
    (tmp_path / "startup.c").write_text(STARTUP)
    (tmp_path / "layout.ld").write_text(LAYOUT)
    sources = [tmp_path / name for name in ("instantnet.c", "tables.c", "vectors.c", "startup.c")]
    target = tmp_path / "network.elf"
    machine = ["-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"]
    link = ["--specs=rdimon.specs", "-nostartfiles", "-T", tmp_path / "layout.ld"]
    subprocess.run(["arm-none-eabi-gcc", *STRICT, "-O2", *machine, *link, "-o", target, *sources], check=True)
    run = ["qemu-system-arm", "-M", "mps2-an386", "-nographic", "-semihosting", "-kernel", target]
    result = subprocess.run(run, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert (result.returncode, result.stdout) == (0, "all logits are those of the NumPy form\n"), result.stderr
