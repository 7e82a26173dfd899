"""Compiled passes on a CPU: they stand for those of `quantize`, `operations`, `model_search`, and compute the same."""
