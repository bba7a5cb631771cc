"""Checkpoints with packed weights: each format reads its tensors into worker/kernels/packed, and they stay packed."""
