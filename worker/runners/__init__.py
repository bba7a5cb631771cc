"""How a model is run: the ways from scheduled tokens to logits, and the choice of the fastest correct one."""
