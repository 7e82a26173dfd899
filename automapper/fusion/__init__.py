"""Layers fused into groups: which, in how many strips, and with which mappings, at every bit-width."""
