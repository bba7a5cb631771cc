"""Packed weights: one form for all checkpoints, how it is made, the tensor that carries it, and its products."""
