"""Compiled code kept on disk: what is compiled once and what again."""

from numba import types

from hw_model.disk_cache import cached


def test_constants_compile_nothing_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    added = cached(lambda x, last: x + 1 if last else x)
    caller = cached(lambda x: added(x, True) + added(2, False) + added(x + x, last=x > 1))
    assert caller(3) == 4 + 2 + 7
    assert added.signatures == [(types.int64, types.boolean)]
