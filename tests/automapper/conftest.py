"""A checkpoint to map, and a cache of tables."""

from pathlib import Path

import pytest
from tiny_network import FEWER, write_weights


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("finetune"), FEWER)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of the module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
