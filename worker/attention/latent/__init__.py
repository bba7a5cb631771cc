"""Attention over latents: one vector a token, from which the keys and values of all heads are made (MLA)."""
