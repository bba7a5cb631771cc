"""Batches: each line of an input file is sent to the API as a request of its owner, and its answer recorded."""
