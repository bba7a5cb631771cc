"""Memory that outlives this process: the keeper's client, and named tensors in such memory."""
