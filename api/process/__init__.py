"""Resources of the whole process: threads for large work, memory, direct calls to the kernel."""
