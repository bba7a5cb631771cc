"""Models that are not loaded and need not be read again: their weights lie in host memory."""
