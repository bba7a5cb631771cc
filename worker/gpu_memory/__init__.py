"""Memory of one engine on a GPU that leaves the card and comes back: its tensors, their addresses, and their copy."""
