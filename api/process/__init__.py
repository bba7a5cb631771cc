"""What the whole process shares: threads for large work, memory, direct questions to the kernel."""
