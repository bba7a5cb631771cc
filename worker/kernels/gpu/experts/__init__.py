"""The experts of sparse models in Triton: rows are grouped by expert, and one launch computes all groups."""
