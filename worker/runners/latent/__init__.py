"""Runs models that attend over latents (MLA): DeepSeek V3, R1, V3.1 and V3.2, GLM 4.7 Flash."""
