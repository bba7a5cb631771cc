"""/v1/completions: one job per prompt."""
