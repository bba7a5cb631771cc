"""Triton kernels for models that attend over latents (MLA), with keys chosen by index scores (DSA) or all of them."""
