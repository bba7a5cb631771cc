"""Kernels for GPUs in Triton. Imported only where Triton is installed; the interpreter runs them on a CPU in tests."""
