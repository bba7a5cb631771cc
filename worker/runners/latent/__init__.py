"""Runs models that attend over latents (MLA): DeepSeek V2 to V3.2, Kimi K2, GLM 4.7 Flash, GLM 5."""
