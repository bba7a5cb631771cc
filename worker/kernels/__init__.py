"""Matrix products and the operators between them: C kernels for CPUs, compiled torch for GPUs, quantized weights."""
