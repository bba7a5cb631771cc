"""The experts of sparse models, computed from packed weights without making all of them dense."""
