"""A checkpoint to map."""

from pathlib import Path

import pytest
from tiny_network import FEWER, write_weights


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("finetune"), FEWER)
