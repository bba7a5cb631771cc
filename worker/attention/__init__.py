"""Attention of a step's tokens over the paged KV cache."""
