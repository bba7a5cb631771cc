"""Benchmarks: python -m bench.NAME. Engines compute in them as they do in a worker."""

from worker.process_setup import prepare_process

prepare_process()  # before a benchmark loads torch
