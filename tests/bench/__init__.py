"""Benches that run on machines that we rarely have run here too, at a tiny size."""
