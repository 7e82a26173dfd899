"""The device of the tests in this folder, and what holds while one runs.

`pytest tests/gpu -m gpu` runs them on the GPU. `--gpu-device cpu` rehearses the same bodies on a CPU, so that a mistake
in a test is found where there is no GPU. What only CUDA can show is left out there.
"""

import os
from collections.abc import Iterator

import pytest
import torch

from instantnet.engine.machine import tune_gpu

# cuBLAS repeats its sums exactly only with this. It reads it when it starts: before anything runs on a GPU.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(scope="session")
def device(request) -> torch.device:
    """What the test computes on."""
    device = torch.device(request.config.getoption("--gpu-device"))
    if device.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU; --gpu-device cpu rehearses this test on the CPU")
    return device


@pytest.fixture(autouse=True)
def float32_is_float32() -> None:
    """TF32 off, whatever a test before has set."""
    tune_gpu(tf32=False)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """The same bits whenever the same thing is computed on the same card; a warning names an operation that cannot."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
